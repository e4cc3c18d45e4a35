// SPDX-License-Identifier: Apache-2.0
#include "programs/regions.h"

#include "platform/fs.h"
#include "platform/os.h"

namespace bitnet::programs {
namespace {

constexpr size_t kTextBytesMax = 4u << 20;
constexpr size_t kRightsBytes = 4;
uint8_t smaps[kTextBytesMax];

/// Reads a line from left to right; after the first thing that is not as expected nothing counts.
struct Scan {
  Text rest;
  bool ok = true;

  bool is_next(char byte) const { return !rest.empty() && rest[0] == static_cast<uint8_t>(byte); }
  void expect(char byte) {
    ok = ok && is_next(byte);
    if (ok) rest = rest.subspan(1);
  }
  void skip_spaces() {
    while (is_next(' ')) rest = rest.subspan(1);
  }
  /// Hexadecimal, or decimal, and the character behind it.
  uint64_t number(uint32_t base, char end) {
    uint64_t value;
    ok = take_number(&rest, base, &value) && ok;
    expect(end);
    return value;
  }
};

void scan_head(Scan& scan, Region* region) {
  region->begin = scan.number(16, '-');
  region->end = scan.number(16, ' ');
  scan.ok = scan.ok && region->begin < region->end && scan.rest.size() > kRightsBytes;
  if (!scan.ok) return;
  region->rights = scan.rest.first(kRightsBytes);
  for (size_t i = 0; i < kRightsBytes; ++i)
    scan.expect(scan.is_next("rwxp"[i]) ? "rwxp"[i] : "---s"[i]);
  scan.expect(' ');
  region->offset = scan.number(16, ' ');
  scan.number(16, ':');
  scan.number(16, ' ');
  scan.number(10, ' ');
  scan.skip_spaces();
  region->name = scan.rest;
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

Error hidden(const char* what, const Error& reason) {
  return Error{Status::kProcessHidden, what, 0, reason.value};
}

Result<int> open_of(const char* pid, const char* name) {
  uint8_t path[kProcessPathBytes];
  const Result<int> file = platform::open_file(platform::kAnywhere, process_path(pid, name, path));
  return file.ok() ? file : hidden(name, file.error());
}

/// Memory from `address` on holds these bytes of the file.
Error compare(const Process& process, uint64_t address, Text expected) {
  uint8_t found[65536];
  for (size_t at = 0; at < expected.size();) {
    const size_t left = expected.size() - at;
    const size_t wanted = left < sizeof found ? left : sizeof found;
    const Result<size_t> count = platform::read_at(process.memory, address + at, {found, wanted});
    if (!count.ok() || count.value() != wanted) return hidden("mem", count.error());
    for (size_t i = 0; i < wanted; ++i, ++at) {
      const auto offset = static_cast<uint64_t>(&expected[at] - process.elf.file.data());
      if (found[i] != expected[at])
        return Error{Status::kMappingDiffers, "memory", address + at, offset};
    }
  }
  return kNoError;
}

/// Whether this is the copy of the weights that a run reads with `weights: resident`, as
/// copy_to_huge_pages makes it.
bool is_copy(const Region& region, Text payload) {
  const uint64_t page = platform::page_bytes();
  const bool fits = region.begin % platform::kHugePageBytes == 0 &&
                    region.end - region.begin == (payload.size() + page - 1) / page * page;
  return fits && region.name.empty() && same(region.rights, "r--p");
}

/// A region of the executable: the segment that holds its offset says the rest. Pages are mapped
/// whole, so a region may begin before its segment's first byte and end after its last.
Error check_own(Process& process, const Region& region) {
  const bool writable = region.rights[1] == 'w';
  const bool executable = region.rights[2] == 'x';
  const uint64_t apart = region.begin - region.offset;
  const uint64_t page = platform::page_bytes();
  for (const format::ProgramHeader& load : std::span(process.elf.loads, process.elf.load_count)) {
    const uint64_t file_end = load.offset + load.file_bytes;
    if (region.offset < load.offset / page * page || region.offset >= file_end) continue;
    const uint64_t bias = apart - (load.virtual_address - load.offset);
    if (process.bias_known && process.bias != bias) continue;
    const bool may_write = (load.flags & format::kFlagWrite) != 0;
    const bool may_execute = (load.flags & format::kFlagExecute) != 0;
    if (executable != may_execute || (writable && !may_write)) return foreign(region);
    process.bias = bias;
    process.bias_known = true;
    if (may_write) return kNoError;  // start-up relocates it
    const uint64_t from = region.offset < load.offset ? load.offset : region.offset;
    const uint64_t to = region.end - apart < file_end ? region.end - apart : file_end;
    if (to < from) return foreign(region);
    process.compared_bytes += to - from;
    return compare(process, apart + from, process.elf.file.subspan(from, to - from));
  }
  return foreign(region);
}

}  // namespace

bool next_region(Text& rest, Region* region, bool* ok) {
  if (rest.empty()) return false;
  *region = Region{};
  Scan head{take_line(&rest)};
  scan_head(head, region);
  *ok = *ok && head.ok;
  // Attributes begin with a capital letter, the next region with a digit of its address.
  while (*ok && !rest.empty() && rest[0] >= 'A' && rest[0] <= 'Z') {
    Scan line{take_line(&rest)};
    if (!take_words(&line.rest, text_of("Locked:"))) continue;
    line.skip_spaces();
    region->locked_kb = line.number(10, ' ');
    *ok = line.ok;
  }
  return *ok;
}

bool is_process(const char* pid) {
  Text digits = text_of(pid);
  uint64_t number;
  const bool numbered = digits.size() <= 10 && take_number(&digits, 10, &number) && digits.empty();
  return numbered || same(text_of(pid), "self");
}

const char* process_path(const char* pid, const char* name, std::span<uint8_t> place) {
  return Writer(place).text("/proc/").text(pid).text("/").text(name).ended();
}

Error check_process(const char* pid, const format::ElfFile& elf, void (*tell)(const Region&)) {
  uint8_t path[kProcessPathBytes];
  char executable[platform::kPathBytesMax];
  const Error link =
      platform::read_link(platform::kAnywhere, process_path(pid, "exe", path), executable);
  if (failed(link)) return hidden("exe", link);
  const platform::Handle text(BITNET_VALUE(open_of(pid, "smaps")));
  const platform::Handle memory(BITNET_VALUE(open_of(pid, "mem")));
  const Result<size_t> count = platform::read_at(text, 0, smaps);
  if (!count.ok() || count.value() == sizeof smaps) return hidden("smaps", count.error());
  Process process{elf, memory};
  Region region;
  bool ok = true;
  for (Text rest(smaps, count.value()); next_region(rest, &region, &ok);) {
    // Segments are private; a shared mapping is of a program that reads its own file.
    const bool mapped = region.rights[3] == 'p' && same(region.name, executable);
    const bool copy = is_copy(region, elf.payload);
    region.of_executable = mapped || copy;
    tell(region);
    const bool code = region.rights[2] == 'x';
    const bool kernel = same(region.name, "[vdso]") || same(region.name, "[vsyscall]");
    if (code && (region.rights[1] == 'w' || (!region.of_executable && !kernel)))
      return foreign(region);
    if (mapped) BITNET_TRY(check_own(process, region));
    if (copy) BITNET_TRY(compare(process, region.begin, elf.payload));
  }
  if (!ok) return Error{Status::kProcessHidden, "smaps"};
  uint64_t expected = 0;
  for (size_t i = 0; i < elf.load_count; ++i) {
    if ((elf.loads[i].flags & format::kFlagWrite) == 0) expected += elf.loads[i].file_bytes;
  }
  if (process.compared_bytes == expected) return kNoError;
  return Error{Status::kRegionForeign, "segment is not there", process.bias};
}

}  // namespace bitnet::programs
