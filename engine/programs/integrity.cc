// bitnet-integrity: holds a sealed executable, or a process that runs one, against its digests.
// SPDX-License-Identifier: Apache-2.0
#include "base/processor.h"
#include "format/executable.h"
#include "format/leaves.h"
#include "platform/fs.h"
#include "platform/os.h"
#include "programs/arguments.h"
#include "programs/regions.h"
#include "programs/report.h"

namespace {

using namespace bitnet;
using programs::Line;

constexpr char kHelp[] =
    R"(usage: bitnet-integrity --self | --binary PATH | --pid PID  [--json]

  --self        this program: its file, its memory, and what that cannot prove
  --binary PATH a sealed executable: every leaf of the model, the roots, the rest of the image
  --pid PID     a process that runs a sealed executable: its file as above, and its memory; a
                model.bin beside the executable is not compared
  --json        one JSON object a line
  --version     print the version

exit codes: 0 all matches, 1 failed, 2 usage, 3 something does not match, 5 not to be seen
)";

constexpr const char* kLimits[] = {
    "a modified program can lie about its own digest",
    "the kernel, the hypervisor and the firmware are trusted",
    "this proves a state at one time only",
    "this proves bytes, not behaviour and not where the training came from",
    "without a quote of a TPM over a nonce this is no remote attestation",
};

bool json = false;

void end_line(Writer& line) { programs::print(platform::kStdout, line.text("\n")); }

void tell(const char* name, Text value) {
  Line line;
  end_line(json ? line.text("{\"").text(name).text("\": ").quoted(value).text("}")
                : line.text(name).text("  ").escaped(value));
}

void tell_digest(const char* name, Text digest) { tell(name, Line().hex(digest).written()); }

void tell_region(const programs::Region& region) {
  uint8_t place[6 * platform::kPathBytesMax + 256];  // a byte of a path is six as JSON
  Writer line(place);
  line.text(json ? "{\"region\": \"" : "region  ").hex_number(region.begin).text("-");
  line.hex_number(region.end).text(json ? "\", \"rights\": \"" : " ").bytes(region.rights);
  line.text(json ? "\", \"locked_kb\": " : " locked ").number(region.locked_kb);
  line.text(json ? ", \"of_executable\": " : " kB ");
  line.text(json ? (region.of_executable ? "true" : "false")
                 : (region.of_executable ? "executable " : ""));
  end_line(json ? line.text(", \"name\": ").quoted(region.name).text("}")
                : line.escaped(region.name));
}

/// Note, image, model. An error inside a sealed file is one of trust.
Error check_file(const format::ElfFile& elf) {
  const Text root = elf.file.subspan(elf.note_offset, kDigestBytes);
  const Text image = elf.sealed_image();
  constexpr Digest kZero{};
  if (same(root, kZero) && same(image, kZero) && elf.payload.empty()) {
    tell("model", text_of("none: not sealed"));
    return kNoError;
  }
  const Digest found = format::image_digest(elf);
  tell_digest("image", found);
  if (!same(found, image))
    return Error{Status::kSealBroken, "image", elf.note_offset + kDigestBytes};
  const uint64_t place =
      elf.payload.empty() ? 0 : static_cast<uint64_t>(elf.payload.data() - elf.file.data());
  const Result<const format::ModelHeader*> header = format::check_model_header(elf.payload);
  if (!header.ok()) {
    return Error{Status::kSealBroken, header.error().subject, place + header.error().where};
  }
  tell_digest("root", header.value()->root);
  if (!same(header.value()->root, root)) {
    return Error{Status::kSealBroken, "root", elf.note_offset};
  }
  const Processor processor = detect_processor(platform::hardware_capabilities());
  const format::Leaves leaves(elf.payload, crypto::choose_leaf_hash(processor));
  const uint64_t leaf = leaves.first_changed(0, leaves.count());
  if (leaf != leaves.count()) return leaves.changed(leaf);
  tell("leaves", Line().number(leaves.count()).text(" match").written());
  return kNoError;
}

void tell_lockdown() {
  uint8_t text[128];
  const char* path = "/sys/kernel/security/lockdown";
  const platform::Handle file(platform::open_file(platform::kAnywhere, path));
  const size_t bytes = platform::read_at(file, 0, text).value();  // with a line break
  tell("kernel_lockdown", bytes > 0 ? Text(text, bytes - 1) : text_of("not available"));
}

Error check(const char* binary, const char* pid, bool self) {
  static uint8_t path[programs::kProcessPathBytes];  // an error may name it
  if (binary == nullptr && !programs::is_process(pid)) return Error{Status::kOptionValue, "--pid"};
  const Text file =
      BITNET_VALUE(binary != nullptr ? platform::map_file(binary, Status::kReadFailed)
                                     : platform::map_file(programs::process_path(pid, "exe", path),
                                                          Status::kProcessHidden));
  const format::ElfFile elf = BITNET_VALUE(format::parse_elf(file));
  tell_digest("sha3_384", Sha3().add(file).digest());
  BITNET_TRY(check_file(elf));
  // Nothing in a file without a model is held against a digest.
  if (binary != nullptr)
    return elf.payload.empty() ? Error{Status::kModelNotSealed, binary} : kNoError;
  BITNET_TRY(programs::check_process(pid, elf, tell_region));
  tell_lockdown();
  for (const char* limit : kLimits) {
    if (self) tell("limit", text_of(limit));
  }
  return kNoError;
}

}  // namespace

int main(int argument_count, char** argument_values) {
  const char* binary = nullptr;
  const char* pid = nullptr;
  bool self = false;
  programs::Option options[] = {
      {.name = "--self", .flag = &self},
      {.name = "--binary", .text = &binary},
      {.name = "--pid", .text = &pid},
      {.name = "--json", .flag = &json},
  };
  Error error = programs::parse_arguments(argument_count, argument_values, options, kHelp);
  const int modes = self + (binary != nullptr) + (pid != nullptr);
  if (!failed(error) && modes != 1) {
    error = Error{modes == 0 ? Status::kOptionMissing : Status::kOptionValue,
                  "--self, --binary or --pid"};
  }
  if (!failed(error)) error = check(binary, self ? "self" : pid, self);
  if (!failed(error)) tell("result", text_of("matches"));
  return programs::report(error);
}
