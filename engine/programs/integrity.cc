// bitnet-integrity: holds a sealed executable, or a process that runs one, against its digests.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "base/processor.h"
#include "format/elf_file.h"
#include "format/leaves.h"
#include "platform/inspect.h"
#include "platform/os.h"
#include "programs/arguments.h"
#include "programs/regions.h"
#include "programs/report.h"

namespace {

using namespace bitnet;
using programs::bytes_of;
using programs::Line;

constexpr char kHelp[] =
    "usage: bitnet-integrity --self | --binary PATH | --pid PID  [--json]\n"
    "\n"
    "  --self        this program: its file, its memory, and what that cannot prove\n"
    "  --binary PATH a sealed executable: every leaf of the model, the roots, the rest of the "
    "image\n"
    "  --pid PID     a process that runs a sealed executable: its file as above, and its memory\n"
    "  --json        one JSON object a line\n"
    "  --version     print the version\n"
    "\n"
    "exit codes: 0 all matches, 1 failed, 2 usage, 3 something does not match, 5 not to be seen\n";

constexpr const char* kLimits[] = {
    "a modified program can lie about its own digest",
    "the kernel, the hypervisor and the firmware are trusted",
    "this proves a state at one time only",
    "this proves bytes, not behaviour and not where the training came from",
    "without a quote of a TPM over a nonce this is no remote attestation",
};

bool json = false;

void print(Line& line) {
  if (failed(platform::write_all(platform::kStdout, line.text("\n").bytes())))
    platform::exit_process(1);
}

void tell(const char* name, std::span<const uint8_t> value) {
  Line line;
  json ? line.text("{\"").text(name).text("\": ").quoted(value).text("}")
       : line.text(name).text("  ").escaped(value);
  print(line);
}

void tell_digest(const char* name, const uint8_t* digest) {
  Line line;
  tell(name, line.hex({digest, kDigest384Bytes}).bytes());
}

void tell_region(const programs::Region& region) {
  Line line;
  line.text(json ? "{\"region\": \"" : "region  ").hex_number(region.begin).text("-");
  line.hex_number(region.end).text(json ? "\", \"rights\": \"" : " ").text(region.rights);
  line.text(json ? "\", \"locked_kb\": " : " locked ").number(region.locked_kb);
  line.text(json ? ", \"of_executable\": " : " kB ");
  line.text(json ? (region.of_executable ? "true" : "false")
                 : (region.of_executable ? "executable " : ""));
  json ? line.text(", \"name\": ").quoted(bytes_of(region.name)).text("}")
       : line.escaped(bytes_of(region.name));
  print(line);
}

/// The file: digests, note, model. An error inside a sealed file is one of trust.
Error check_file(const format::ElfFile& elf) {
  uint8_t digest[kDigest384Bytes];
  bitnet_sha3_384(elf.file.data(), elf.file.size(), digest);
  tell_digest("sha3_384", digest);
  const uint8_t* root = elf.file.data() + elf.note_offset;
  uint8_t any = 0;
  for (size_t i = 0; i < 2 * format::kRootBytes; ++i) any |= root[i];
  if (any == 0 && elf.payload.empty()) {
    tell("model", bytes_of("none: not sealed"));
    return kNoError;
  }
  format::image_digest(elf, digest);
  tell_digest("image", digest);
  if (std::memcmp(digest, root + format::kRootBytes, sizeof digest) != 0)
    return Error{Status::kSealBroken, "image", elf.note_offset + format::kRootBytes};
  const uint64_t place =
      elf.payload.empty() ? 0 : static_cast<uint64_t>(elf.payload.data() - elf.file.data());
  const Result<const format::ModelHeader*> header = format::check_model_header(elf.payload);
  if (!header.ok()) {
    return Error{Status::kSealBroken, header.error().subject, place + header.error().where};
  }
  tell_digest("root", header.value()->root);
  if (std::memcmp(header.value()->root, root, format::kRootBytes) != 0)
    return Error{Status::kSealBroken, "root", elf.note_offset};
  const Processor processor = detect_processor(platform::hardware_capabilities());
  const format::Leaves leaves(elf.payload, crypto::choose_leaf_hash(processor));
  const uint64_t leaf = leaves.first_changed(0, leaves.count());
  if (leaf != leaves.count()) return leaves.changed(leaf);
  Line line;
  tell("leaves", line.number(leaves.count()).text(" match").bytes());
  return kNoError;
}

void tell_lockdown() {
  uint8_t text[128];
  const Result<int> file = platform::open_for_reading("/sys/kernel/security/lockdown");
  const Result<size_t> count = file.ok() ? platform::read_at(file.value(), 0, text) : file.error();
  if (!count.ok()) {
    return tell("kernel_lockdown", bytes_of("not available"));
  }
  tell("kernel_lockdown", {text, count.value() > 0 ? count.value() - 1 : 0});
}

Error check(const char* binary, const char* pid, bool self) {
  char path[64];
  Result<std::span<const uint8_t>> file = Error{};
  if (binary != nullptr) {
    file = platform::map_file(binary);
  } else {
    const Result<const char*> exe = programs::process_path(pid, "exe", path);
    if (!exe.ok()) return exe.error();
    file = platform::map_file(exe.value());
    if (!file.ok()) return Error{Status::kProcessHidden, "exe", 0, file.error().value};
  }
  if (!file.ok()) return Error{Status::kReadFailed, binary, 0, file.error().value};
  const Result<format::ElfFile> elf = format::parse_elf(file.value());
  if (!elf.ok()) return elf.error();
  BITNET_TRY(check_file(elf.value()));
  if (binary != nullptr) return kNoError;
  BITNET_TRY(programs::check_process(pid, elf.value(), tell_region));
  tell_lockdown();
  for (const char* limit : kLimits) {
    if (self) tell("limit", bytes_of(limit));
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
  bool done = false;
  Error error = programs::parse_arguments(argument_count, argument_values, options, kHelp, &done);
  const int modes = self + (binary != nullptr) + (pid != nullptr);
  if (!failed(error) && !done && modes != 1) error = Error{Status::kOptionMissing, "--self"};
  if (!failed(error) && !done) error = check(binary, self ? "self" : pid, self);
  if (!failed(error) && !done) tell("result", bytes_of("matches"));
  platform::exit_process(failed(error) ? programs::report(error) : 0);
}
