// SPDX-License-Identifier: Apache-2.0
#include "release/bundle.h"

#include <cstring>

#include "platform/fs.h"
#include "release/content.h"

namespace bitnet::release {
namespace {

constexpr char kPartMagic[] = "bitnet-part v1\n";

platform::NameList names;

Error parts_error(const Bundle& bundle) {
  uint64_t found = 0;
  for (const Part& part : std::span(bundle.parts, bundle.part_count)) {
    found += part.state == PartState::kFound ? 1 : 0;
  }
  return Error{Status::kParts, "bundle", 0, found, bundle.part_count};
}

/// Reads a part's head; false where it is not a part of this bundle.
bool parse_head(Text head, uint64_t file_bytes, Bundle* bundle, Part* part, uint64_t* index) {
  Scanner scanner(head, "part");
  scanner.expect(kPartMagic);
  scanner.expect("bundle ");
  const Digest whole = scanner.digest();
  scanner.expect(" ");
  const uint64_t bytes = scanner.number();
  scanner.expect("\npart ");
  *index = scanner.number();
  scanner.expect(" ");
  const uint64_t count = scanner.number();
  scanner.expect(" ");
  part->offset = scanner.number();
  scanner.expect(" ");
  part->bytes = scanner.number();
  scanner.expect("\ndata ");
  part->sha384 = scanner.digest();
  while (scanner.ok() && !scanner.at_end()) scanner.end_line();
  part->head_bytes = kPartHeadBytes;
  part->state = PartState::kFound;
  if (!scanner.ok() || whole != bundle->sha384 || bytes != bundle->bytes) return false;
  if (count > kPartCountMax || *index == 0 || *index > count || part->bytes == 0) return false;
  if (bundle->part_count != 0 && bundle->part_count != count) return false;
  bundle->part_count = static_cast<uint32_t>(count);
  if (file_bytes != kPartHeadBytes + part->bytes) part->state = PartState::kDamaged;
  return true;
}

/// Takes over an open file. A whole bundle is one part without a head.
Error add_file(platform::Handle* file, bool alone, Bundle* bundle) {
  const platform::FileFacts facts = BITNET_VALUE(platform::file_facts(*file));
  uint8_t head[kPartHeadBytes];
  // A head that the medium does not give is none: the other parts are looked at all the same.
  const size_t got = platform::read_at(*file, 0, head).value();
  Part part;
  uint64_t index = 1;
  Text begin(head, got);
  if (alone && !take_words(&begin, text_of(kPartMagic))) {
    part.state = PartState::kFound;
    part.bytes = facts.bytes;
    part.sha384 = bundle->sha384;
    bundle->part_count = 1;
  } else if (!parse_head(Text(head, got), facts.bytes, bundle, &part, &index) ||
             bundle->parts[index - 1].state == PartState::kFound) {
    bundle->foreign += 1;
    return kNoError;
  }
  platform::close_file(bundle->parts[index - 1].descriptor);
  part.descriptor = file->release();
  bundle->parts[index - 1] = part;
  return kNoError;
}

/// What the operator named: a file, or a folder with files that are named as parts are.
Error add_path(const char* path, bool alone, Bundle* bundle) {
  const platform::Handle folder(platform::open_folder(platform::kAnywhere, path));
  if (failed(folder.error())) {
    platform::Handle file(BITNET_VALUE(platform::open_file(platform::kAnywhere, path)));
    return add_file(&file, alone, bundle);
  }
  BITNET_TRY(platform::list_names(folder, &names));
  bundle->foreign += names.left_out;
  for (uint32_t i = 0; i < names.count; ++i) {
    if (std::strstr(names.names[i], ".part-") == nullptr) continue;
    platform::Handle part(BITNET_VALUE(platform::open_file(folder, names.names[i])));
    BITNET_TRY(add_file(&part, false, bundle));
  }
  return kNoError;
}

}  // namespace

Error open_bundle(std::span<const char* const> paths, const Digest& sha384, uint64_t bytes,
                  Bundle* bundle) {
  *bundle = Bundle{};
  bundle->sha384 = sha384;
  bundle->bytes = bytes;
  for (const char* path : paths) BITNET_TRY(add_path(path, paths.size() == 1, bundle));
  uint64_t offset = 0;
  bool usable = bundle->part_count > 0;
  for (Part& part : std::span(bundle->parts, bundle->part_count)) {
    const bool apart = part.state == PartState::kFound && part.offset != offset;
    if (usable && apart) part.state = PartState::kDamaged;
    usable = usable && part.state == PartState::kFound;
    offset += part.bytes;
  }
  if (!usable) return parts_error(*bundle);
  if (offset != bytes) return Error{Status::kBundleDigest, "bundle", 0, offset, bytes};
  return kNoError;
}

Result<size_t> read_next(Bundle* bundle, std::span<uint8_t> buffer) {
  if (bundle->read_part == bundle->part_count) return size_t{0};
  const Part& part = bundle->parts[bundle->read_part];
  const uint64_t left = part.bytes - bundle->read_offset;
  const Result<size_t> got =
      platform::read_at(part.descriptor, part.head_bytes + bundle->read_offset,
                        left < buffer.size() ? buffer.first(left) : buffer);
  bundle->read_offset += got.value();
  if (bundle->read_offset == part.bytes) {
    bundle->read_part += 1;
    bundle->read_offset = 0;
  }
  return got;
}

Error explain_refusal(Bundle* bundle, std::span<uint8_t> buffer, const Error& reason) {
  bool damaged = false;
  for (Part& part : std::span(bundle->parts, bundle->part_count)) {
    const Result<Digest> digest = hash_file(part.descriptor, part.head_bytes, part.bytes, buffer);
    if (digest.ok() && digest.value() == part.sha384) continue;
    const Error other{Status::kBundleDigest, reason.subject, 0, bundle->bytes, bundle->bytes};
    if (part.head_bytes == 0) return digest.ok() ? other : digest.error();
    part.state = PartState::kDamaged;
    damaged = true;
  }
  return damaged ? parts_error(*bundle) : reason;
}

}  // namespace bitnet::release
