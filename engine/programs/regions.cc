// SPDX-License-Identifier: Apache-2.0
#include "programs/regions.h"

#include <cstring>

#include "platform/inspect.h"

namespace bitnet::programs {
namespace {

constexpr size_t kTextBytesMax = 4u << 20;
constexpr size_t kPathBytesMax = 4096;
uint8_t smaps[kTextBytesMax];

/// Reads a line from left to right; after the first thing that is not as expected nothing counts.
struct Scan {
  std::span<const uint8_t> rest;
  bool ok = true;

  uint8_t peek() const { return rest.empty() ? 0 : rest[0]; }
  uint8_t take() {
    const uint8_t byte = peek();
    ok = ok && !rest.empty();
    rest = rest.subspan(rest.empty() ? 0 : 1);
    return byte;
  }
  void skip_spaces() {
    while (peek() == ' ') take();
  }
  /// Hexadecimal, or decimal, and the character behind it.
  uint64_t number(uint64_t base, char end) {
    constexpr char kDigits[] = "0123456789abcdef";
    uint64_t value = 0;
    const size_t before = rest.size();
    for (;;) {
      const void* digit = peek() == 0 ? nullptr : std::memchr(kDigits, peek(), base);
      if (digit == nullptr) break;
      const auto place = static_cast<const char*>(digit) - kDigits;
      ok = ok && !__builtin_mul_overflow(value, base, &value) &&
           !__builtin_add_overflow(value, static_cast<uint64_t>(place), &value);
      take();
    }
    ok = ok && rest.size() < before;
    ok = take() == end && ok;
    return value;
  }
};

std::span<const uint8_t> next_line(std::span<const uint8_t>& rest) {
  size_t length = 0;
  while (length < rest.size() && rest[length] != '\n') ++length;
  const std::span<const uint8_t> line = rest.first(length);
  rest = rest.subspan(length < rest.size() ? length + 1 : length);
  return line;
}

void scan_head(Scan& scan, Region* region) {
  region->begin = scan.number(16, '-');
  region->end = scan.number(16, ' ');
  for (int i = 0; i < 4; ++i) {
    const char right = static_cast<char>(scan.take());
    scan.ok = scan.ok && (right == "rwxp"[i] || right == "---s"[i]);
    region->rights[i] = right;
  }
  scan.ok = scan.take() == ' ' && scan.ok;
  region->offset = scan.number(16, ' ');
  scan.number(16, ':');
  scan.number(16, ' ');
  scan.number(10, ' ');
  scan.skip_spaces();
  const size_t length = scan.rest.size();
  scan.ok = scan.ok && region->begin < region->end && length < sizeof region->name;
  if (scan.ok && length > 0) std::memcpy(region->name, scan.rest.data(), length);
}

/// One process and the executable in its memory.
struct Process {
  const format::ElfFile& elf;
  int memory;
  bool bias_known = false;
  uint64_t bias = 0;
  uint64_t compared_bytes = 0;
};

Error foreign(const Region& region) {
  return Error{Status::kRegionForeign, "region", region.begin};
}

/// Every byte of the file from `begin` to `end` is in memory as it is, `apart` above its offset.
Error compare(Process& process, uint64_t apart, uint64_t begin, uint64_t end) {
  uint8_t found[65536];
  for (uint64_t at = begin; at < end;) {
    const size_t wanted = end - at < sizeof found ? end - at : sizeof found;
    const Result<size_t> count = platform::read_at(process.memory, apart + at, {found, wanted});
    if (!count.ok() || count.value() != wanted) {
      return Error{Status::kProcessHidden, "mem", 0, count.ok() ? 0 : count.error().value};
    }
    for (size_t i = 0; i < wanted; ++i, ++at) {
      if (found[i] != process.elf.file[at])
        return Error{Status::kMappingDiffers, "memory", apart + at, at};
    }
  }
  process.compared_bytes += end - begin;
  return kNoError;
}

/// A region of the executable: the segment that holds its offset says the rest. Pages are mapped
/// whole, so a region may begin before its segment's first byte and end after its last.
Error check_own(Process& process, const Region& region) {
  const bool writable = region.rights[1] == 'w';
  const bool executable = region.rights[2] == 'x';
  const uint64_t apart = region.begin - region.offset;
  for (size_t i = 0; i < process.elf.load_count; ++i) {
    const format::ProgramHeader& load = process.elf.loads[i];
    const uint64_t file_end = load.offset + load.file_bytes;
    if (region.offset < load.offset / 4096 * 4096 || region.offset >= file_end) continue;
    const uint64_t bias = apart - (load.virtual_address - load.offset);
    if (process.bias_known && process.bias != bias) continue;
    const bool may_write = (load.flags & format::kFlagWrite) != 0;
    const bool may_execute = (load.flags & format::kFlagExecute) != 0;
    if (executable != may_execute || (writable && !may_write)) return foreign(region);
    process.bias = bias;
    process.bias_known = true;
    if (may_write) return kNoError;  // start-up relocates it
    const uint64_t mapped_end = region.end - apart;
    return compare(process, apart, region.offset < load.offset ? load.offset : region.offset,
                   mapped_end < file_end ? mapped_end : file_end);
  }
  return foreign(region);
}

}  // namespace

bool next_region(std::span<const uint8_t>& rest, Region* region, bool* ok) {
  if (rest.empty()) return false;
  *region = Region{};
  Scan head{next_line(rest)};
  scan_head(head, region);
  *ok = *ok && head.ok;
  // Attributes begin with a capital letter, the next region with a digit of its address.
  while (*ok && !rest.empty() && rest[0] >= 'A' && rest[0] <= 'Z') {
    constexpr char kLocked[] = "Locked:";
    constexpr size_t kLockedBytes = sizeof kLocked - 1;
    Scan line{next_line(rest)};
    if (line.rest.size() <= kLockedBytes ||
        std::memcmp(line.rest.data(), kLocked, kLockedBytes) != 0)
      continue;
    line.rest = line.rest.subspan(kLockedBytes);
    line.skip_spaces();
    region->locked_kb = line.number(10, ' ');
    *ok = line.ok;
  }
  return *ok;
}

Result<const char*> process_path(const char* pid, const char* name, char* path) {
  const size_t length = std::strlen(pid);
  size_t digits = 0;
  while (pid[digits] >= '0' && pid[digits] <= '9') ++digits;
  const bool right =
      (digits == length && length > 0 && length <= 10) || std::strcmp(pid, "self") == 0;
  if (!right) return Error{Status::kOptionValue, "--pid"};
  std::memcpy(path, "/proc/", 6);
  std::memcpy(path + 6, pid, length);
  path[6 + length] = '/';
  std::memcpy(path + 7 + length, name, std::strlen(name) + 1);
  return path;
}

Error check_process(const char* pid, const format::ElfFile& elf, void (*tell)(const Region&)) {
  char path[64];
  char executable[kPathBytesMax] = {};
  const Result<const char*> link = process_path(pid, "exe", path);
  if (!link.ok()) return link.error();
  BITNET_TRY(platform::read_link(link.value(), executable));
  Result<int> files[2] = {0, 0};
  const char* names[2] = {"smaps", "mem"};
  for (int i = 0; i < 2; ++i) {
    const Result<const char*> file = process_path(pid, names[i], path);
    files[i] = platform::open_for_reading(file.value());
    if (!files[i].ok()) return Error{Status::kProcessHidden, names[i], 0, files[i].error().value};
  }
  const Result<size_t> count = platform::read_at(files[0].value(), 0, smaps);
  if (!count.ok() || count.value() == sizeof smaps) {
    return Error{Status::kProcessHidden, "smaps", 0, count.ok() ? 0 : count.error().value};
  }
  Process process{elf, files[1].value()};
  std::span<const uint8_t> rest(smaps, count.value());
  static Region region;
  bool ok = true;
  while (next_region(rest, &region, &ok)) {
    // Segments are private; a shared mapping is of a program that reads its own file.
    region.of_executable = region.rights[3] == 'p' && std::strcmp(region.name, executable) == 0;
    tell(region);
    const bool code = region.rights[2] == 'x';
    const bool kernel =
        std::strcmp(region.name, "[vdso]") == 0 || std::strcmp(region.name, "[vsyscall]") == 0;
    if (code && (region.rights[1] == 'w' || (!region.of_executable && !kernel)))
      return foreign(region);
    if (!region.of_executable) continue;
    BITNET_TRY(check_own(process, region));
  }
  if (!ok) return Error{Status::kProcessHidden, "smaps"};
  uint64_t expected = 0;
  for (size_t i = 0; i < elf.load_count; ++i) {
    if ((elf.loads[i].flags & format::kFlagWrite) == 0) expected += elf.loads[i].file_bytes;
  }
  return process.compared_bytes == expected
             ? kNoError
             : Error{Status::kRegionForeign, "segment is not there", process.bias};
}

}  // namespace bitnet::programs
