// /proc/PID/smaps: any text is a list of regions or is refused, as an obvious reading of it says.
// And the whole check of a process, over a kernel of ours: it matches only where every byte of its
// file is in its memory, and nothing but it and the kernel's code can run.
// SPDX-License-Identifier: Apache-2.0
//
// Input: u8 what is asked, then
//   0  the text of smaps
//   1  u8 path of the executable, u8 call that fails (0: none), three times u16 and u8: a byte of
//      the memory, and in which bits it is another; the text of smaps, where \x01 is that path
//   2  what may name a process
#include "programs/regions.h"

#include <cstdio>

#include "platform/fs.h"
#include "platform/os.h"
#include "walk.h"

using namespace bitnet;

extern "C" uint64_t fuzz_accepted;
uint64_t fuzz_accepted = 0;

namespace {

bool same_bytes(Text a, Text b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

Text words(const char* text) { return {reinterpret_cast<const uint8_t*>(text), std::strlen(text)}; }

/// What comes before the first `end`, which is taken off, too; all if there is none.
Text take_until(Text* rest, char end, bool* found) {
  size_t length = 0;
  while (length < rest->size() && (*rest)[length] != static_cast<uint8_t>(end)) ++length;
  *found = length < rest->size();
  const Text before = rest->first(length);
  *rest = rest->subspan(length + *found);
  return before;
}

bool read_number(Text field, unsigned base, uint64_t* value) {
  unsigned __int128 sum = 0;
  for (const uint8_t byte : field) {
    const bool decimal = byte >= '0' && byte <= '9';
    if (!decimal && (base == 10 || byte < 'a' || byte > 'f')) return false;
    sum = sum * base + (decimal ? byte - '0' : byte - 'a' + 10);
    if (sum > UINT64_MAX) return false;
  }
  *value = static_cast<uint64_t>(sum);
  return !field.empty();
}

/// The first line of a region: its fields, and what is left is its name.
bool read_head(Text line, programs::Region* region) {
  constexpr struct {
    char end;
    unsigned base;  // 0: rights
  } kFields[] = {{'-', 16}, {' ', 16}, {' ', 0}, {' ', 16}, {':', 16}, {' ', 16}, {' ', 10}};
  uint64_t values[7] = {};
  for (size_t i = 0; i < 7; ++i) {
    bool found = false;
    const Text field = take_until(&line, kFields[i].end, &found);
    if (!found) return false;
    if (kFields[i].base != 0 && !read_number(field, kFields[i].base, &values[i])) return false;
    if (kFields[i].base == 0) region->rights = field;
  }
  if (region->rights.size() != 4) return false;
  for (size_t i = 0; i < 4; ++i) {
    const uint8_t right = region->rights[i];
    if (right != static_cast<uint8_t>("rwxp"[i]) && right != static_cast<uint8_t>("---s"[i])) {
      return false;
    }
  }
  region->begin = values[0];
  region->end = values[1];
  region->offset = values[3];
  while (!line.empty() && line[0] == ' ') line = line.subspan(1);
  region->name = line;
  return region->begin < region->end;
}

/// A region and its attributes, off the front of a text that is not empty.
bool read_region(Text* rest, programs::Region* region) {
  bool found = false;
  *region = {};
  if (!read_head(take_until(rest, '\n', &found), region)) return false;
  while (!rest->empty() && (*rest)[0] >= 'A' && (*rest)[0] <= 'Z') {
    Text line = take_until(rest, '\n', &found);
    if (!same_bytes(take_until(&line, ':', &found), words("Locked")) || !found) continue;
    while (!line.empty() && line[0] == ' ') line = line.subspan(1);
    if (!read_number(take_until(&line, ' ', &found), 10, &region->locked_kb) || !found) {
      return false;
    }
  }
  return true;
}

void must_equal(const programs::Region& found, const programs::Region& expected) {
  must(found.begin == expected.begin && found.end == expected.end);
  must(found.offset == expected.offset && found.locked_kb == expected.locked_kb);
  must(same_bytes(found.rights, expected.rights) && same_bytes(found.name, expected.name));
}

void check_text(Text text) {
  Text rest = text, mine = text;
  programs::Region found, expected;
  bool ok = true;
  while (!mine.empty()) {
    const bool right = read_region(&mine, &expected);
    must(programs::next_region(rest, &found, &ok) == right && ok == right);
    if (!right) return;
    must_equal(found, expected);
    must(found.name.data() >= text.data());
    must(found.name.data() + found.name.size() <= text.data() + text.size());
    must(rest.data() == mine.data() && rest.size() == mine.size());
  }
  must(!programs::next_region(rest, &found, &ok) && ok);
  fuzz_accepted += 1;
}

// A process: its file, the file's segments, and where they lie in memory. Segments share pages of
// the file, as the linker makes them.

constexpr uint64_t kBias = 0x7f0000000000;
constexpr size_t kFileBytes = 0x3500;
constexpr uint64_t kPageBytes = 4096;
constexpr format::ProgramHeader segment(uint32_t flags, uint64_t offset, uint64_t address,
                                        uint64_t bytes) {
  return {format::kTypeLoad, flags, offset, address, address, bytes, bytes, 4096};
}
constexpr format::ProgramHeader kLoads[] = {
    segment(format::kFlagRead, 0, 0x400000, 0x1600),
    segment(format::kFlagRead | format::kFlagExecute, 0x1600, 0x402600, 0x900),
    segment(format::kFlagRead | format::kFlagWrite, 0x1f00, 0x403f00, 0x180),
    segment(format::kFlagRead, 0x3000, 0x600000, 0x500),
};
/// Pages of memory that hold pages of the file; the last ones a copy of the model.
constexpr struct {
  uint64_t address, bytes, offset;
} kMapped[] = {{0x400000, 0x2000, 0},
               {0x402000, 0x1000, 0x1000},
               {0x403000, 0x2000, 0x1000},
               {0x600000, 0x1000, 0x3000},
               {0x800000, 0x1000, 0x3000}};
constexpr size_t kMemoryBytes = 0x7000;
constexpr uint64_t kModel = 0x3000, kModelBytes = 0x500;

// What proc(5) shows of it, before and after \x01, the path: at start, and with the part that only
// relocation writes sealed.
constexpr char kWhole[] =
    "7f0000400000-7f0000402000 r--p 00000000 fe:00 7 \1\nRss: 8 kB\nLocked:   8 kB\n"
    "7f0000402000-7f0000403000 r-xp 00001000 fe:00 7 \1\nLocked: 0 kB\n"
    "7f0000403000-7f0000405000 rw-p 00001000 fe:00 7 \1\n"
    "7f0000600000-7f0000601000 r--p 00003000 fe:00 7 \1\n"
    "7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0 [stack]\n"
    "7ffc00002000-7ffc00003000 r-xp 00000000 00:00 0 [vdso]\n";
constexpr char kSealed[] =
    "7f0000400000-7f0000402000 r--p 00000000 fe:00 7 \1\n"
    "7f0000402000-7f0000403000 r-xp 00001000 fe:00 7 \1\n"
    "7f0000403000-7f0000404000 r--p 00001000 fe:00 7 \1\n"
    "7f0000404000-7f0000405000 rw-p 00002000 fe:00 7 \1\n"
    "7f0000600000-7f0000601000 r--p 00003000 fe:00 7 \1\n";

// With `weights: resident`, at the end of any of these: the copy; and what is none, for it begins
// elsewhere or has other pages, other rights, a name.
constexpr const char* kCopies[] = {"7f0000800000-7f0000801000 r--p 00000000 00:00 0 \n",
                                   "7f0000801000-7f0000802000 r--p 00000000 00:00 0 \n",
                                   "7f0000800000-7f0000802000 r--p 00000000 00:00 0 \n",
                                   "7f0000800000-7f0000800500 r--p 00000000 00:00 0 \n",
                                   "7f0000800000-7f0000801000 rw-p 00000000 00:00 0 \n",
                                   "7f0000800000-7f0000801000 r--p 00000000 00:00 0 [anon:a]\n"};

constexpr size_t kPathsCount = 4;
constexpr size_t kTextBytesMax = 1u << 17;

format::ElfFile elf;
uint8_t file_bytes[kFileBytes];
uint8_t memory[kMemoryBytes];
char long_path[3900];
const char* paths[kPathsCount] = {"/opt/bitnet/bitnet-infer", "/srv/caf\303\251 \\012/b (deleted)",
                                  long_path, "/a"};
uint8_t text_bytes[kTextBytesMax];
Text smaps;
const char* executable;
uint32_t calls, call_that_fails, open_count;
Text untold;  // what is to be told yet

void make_process() {
  uint32_t state = 1;
  for (uint8_t& byte : file_bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  elf.file = file_bytes;
  elf.payload = elf.file.subspan(kModel, kModelBytes);
  for (const format::ProgramHeader& load : kLoads) elf.loads[elf.load_count++] = load;
  std::memset(long_path, 'n', sizeof long_path - 1);
  long_path[0] = '/';
}

/// The place of an address in `memory`, and how many bytes follow it there.
uint8_t* find_memory(uint64_t address, size_t* bytes) {
  uint8_t* place = memory;
  for (const auto& mapped : kMapped) {
    const uint64_t within = address - kBias - mapped.address;
    *bytes = mapped.bytes - (within < mapped.bytes ? within : 0);
    if (within < mapped.bytes) return place + within;
    place += mapped.bytes;
  }
  *bytes = 0;
  return nullptr;
}

/// Whether the model is at this address, whole.
bool holds_model(uint64_t address) {
  size_t bytes = 0;
  const uint8_t* found = find_memory(address, &bytes);
  return bytes >= kModelBytes && std::memcmp(found, file_bytes + kModel, kModelBytes) == 0;
}

/// Fills the memory from the file and changes it; returns whether a byte of a segment is not as it
/// must be.
bool fill_memory(const uint8_t* changes) {
  uint8_t* place = memory;
  for (const auto& mapped : kMapped) {
    for (uint64_t i = 0; i < mapped.bytes; ++i) {
      *place++ = mapped.offset + i < kFileBytes ? file_bytes[mapped.offset + i] : 0;
    }
  }
  for (size_t i = 0; i < 3; ++i, changes += 3) {
    memory[static_cast<size_t>(changes[0] | changes[1] << 8) % kMemoryBytes] ^= changes[2];
  }
  for (const format::ProgramHeader& load : kLoads) {
    size_t bytes = 0;
    const uint8_t* found = find_memory(kBias + load.virtual_address, &bytes);
    must(bytes >= load.file_bytes);
    const bool equal = std::memcmp(found, file_bytes + load.offset, load.file_bytes) == 0;
    if ((load.flags & format::kFlagWrite) == 0 && !equal) return true;
  }
  return false;
}

/// A text with the path in place of each \x01; what does not fit is left out.
Text fill_in(Text text, uint8_t* out) {
  size_t count = 0;
  for (const uint8_t& byte : text) {
    const Text piece = byte == 1 ? words(executable) : Text(&byte, 1);
    if (piece.size() > kTextBytesMax - count) break;
    std::memcpy(out + count, piece.data(), piece.size());
    count += piece.size();
  }
  return {out, count};
}

bool is_own(const programs::Region& region) {
  return region.rights[3] == 'p' && same_bytes(region.name, words(executable));
}

/// Whether a region must be a copy of the model: its one page, where a huge page could be.
bool is_copy(const programs::Region& region) {
  const bool fits = (region.begin & 0x1fffff) == 0 && region.end == region.begin + kPageBytes;
  return fits && region.name.empty() && same_bytes(region.rights, words("r--p"));
}

void tell(const programs::Region& region) {
  programs::Region expected;
  must(read_region(&untold, &expected));
  must_equal(region, expected);
  must(region.of_executable == (is_own(expected) || is_copy(expected)));
}

enum Descriptor : int { kSmaps = 5, kMem = 6 };

bool fails() { return ++calls == call_that_fails; }

}  // namespace

// The kernel that the check asks.
namespace bitnet::platform {
Error read_link(int folder, const char* name, std::span<char> target) {
  must(folder == kAnywhere && std::strcmp(name, "/proc/42/exe") == 0);
  if (fails()) return Error{Status::kFileSystem, name, 0, 13};
  must(std::strlen(executable) < target.size());
  std::memcpy(target.data(), executable, std::strlen(executable) + 1);
  return kNoError;
}
Result<int> open_file(int folder, const char* name) {
  must(folder == kAnywhere);
  const bool is_memory = std::strcmp(name, "/proc/42/mem") == 0;
  must(is_memory || std::strcmp(name, "/proc/42/smaps") == 0);
  if (fails()) return Error{Status::kFileSystem, name, 0, 13};
  open_count += 1;
  return is_memory ? kMem : kSmaps;
}
uint64_t page_bytes() { return kPageBytes; }
void close_file(int descriptor) { open_count -= descriptor >= 0; }
Result<size_t> read_at(int descriptor, uint64_t offset, std::span<uint8_t> buffer) {
  if (fails()) return Error{Status::kFileSystem, "read", 0, 5};
  size_t bytes = 0;
  const uint8_t* found = nullptr;
  if (descriptor == kSmaps) {
    must(offset == 0);
    found = smaps.data();
    bytes = smaps.size();
  } else {
    must(descriptor == kMem);
    found = find_memory(offset, &bytes);
  }
  if (bytes > buffer.size()) bytes = buffer.size();
  if (bytes > 0) std::memcpy(buffer.data(), found, bytes);
  return bytes;
}
}  // namespace bitnet::platform

namespace {

/// Takes one of kCopies off the end of a text; returns whether it is the copy of the model.
bool take_copy(Text* text) {
  for (const char* const each : kCopies) {
    const Text copy = words(each);
    if (text->size() < copy.size() || !same_bytes(text->last(copy.size()), copy)) continue;
    *text = text->first(text->size() - copy.size());
    return each == kCopies[0];
  }
  return false;
}

/// What a process that matches must be: nothing else can run, each segment that is not writable is
/// mapped whole and with its rights, and each copy of the model is one. The kernel tells regions in
/// ascending order.
void check_match(Text text) {
  bool ascending = true;
  uint64_t last = 0, mapped[4] = {};
  for (programs::Region region; !text.empty();) {
    must(read_region(&text, &region));
    ascending = ascending && region.begin >= last;
    last = region.end;
    const bool runs = region.rights[2] == 'x', writable = region.rights[1] == 'w';
    const bool kernel =
        same_bytes(region.name, words("[vdso]")) || same_bytes(region.name, words("[vsyscall]"));
    must(!runs || (!writable && (is_own(region) || kernel)));
    must(!is_copy(region) || holds_model(region.begin));
    if (!is_own(region)) continue;
    size_t i = 0;  // the segment by its distance, which no two share here
    while (i < 4 &&
           region.begin - region.offset != kBias + kLoads[i].virtual_address - kLoads[i].offset) {
      ++i;
    }
    must(i < 4 && runs == ((kLoads[i].flags & format::kFlagExecute) != 0));
    must(!writable || (kLoads[i].flags & format::kFlagWrite) != 0);
    const uint64_t begin = kBias + kLoads[i].virtual_address;
    const uint64_t end = begin + kLoads[i].file_bytes;
    const uint64_t from = region.begin > begin ? region.begin : begin;
    const uint64_t to = region.end < end ? region.end : end;
    mapped[i] += to > from ? to - from : 0;
  }
  for (size_t i = 0; ascending && i < 4; ++i) {
    must((kLoads[i].flags & format::kFlagWrite) != 0 || mapped[i] == kLoads[i].file_bytes);
  }
}

void check_process(const uint8_t* data, size_t bytes) {
  constexpr size_t kHeadBytes = 2 + 3 * 3;
  if (bytes < kHeadBytes) return;
  if (elf.load_count == 0) make_process();
  executable = paths[data[0] % kPathsCount];
  call_that_fails = data[1];
  calls = 0;
  const bool tampered = fill_memory(data + 2);
  const Text told{data + kHeadBytes, bytes - kHeadBytes};
  smaps = untold = fill_in(told, text_bytes);
  const Error error = programs::check_process("42", elf, tell);
  must(open_count == 0);
  const bool interrupted = call_that_fails != 0 && calls >= call_that_fails;
  Text segments = told;
  const bool copied = take_copy(&segments);
  const bool right = same_bytes(segments, words(kWhole)) || same_bytes(segments, words(kSealed));
  const bool wrong = tampered || (copied && !holds_model(kBias + 0x800000));
  must(!right || interrupted || failed(error) == wrong);
  if (!failed(error)) {
    must(!tampered && !interrupted && untold.empty());
    fuzz_accepted += 1;
    return check_match(smaps);
  }
  must(!interrupted || error.status == Status::kProcessHidden);
  if (error.status == Status::kMappingDiffers) {
    size_t left = 0;
    const uint8_t* found = find_memory(error.where, &left);
    must(left > 0 && error.value < kFileBytes && *found != file_bytes[error.value]);
  } else {
    must(error.status == Status::kProcessHidden || error.status == Status::kRegionForeign);
  }
}

/// A name is short and has nothing of a path in it, and the path is made of it as it is.
void check_name(const uint8_t* data, size_t bytes) {
  auto* name = static_cast<char*>(std::malloc(bytes + 1));
  if (bytes > 0) std::memcpy(name, data, bytes);
  name[bytes] = 0;
  const size_t length = std::strlen(name);
  const bool digits = length >= 1 && length <= 10 && std::strspn(name, "0123456789") == length;
  const bool right = digits || std::strcmp(name, "self") == 0;
  const bool accepted = programs::is_process(name);
  must(accepted == right);
  if (accepted) {
    fuzz_accepted += 1;
    auto* place = static_cast<uint8_t*>(std::malloc(programs::kProcessPathBytes));
    char expected[128];
    std::snprintf(expected, sizeof expected, "/proc/%s/smaps", name);
    const char* path = programs::process_path(name, "smaps", {place, programs::kProcessPathBytes});
    must(std::strcmp(path, expected) == 0);
    std::free(place);
  }
  std::free(name);
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  if (data[0] % 4 == 0) check_text({data + 1, bytes - 1});
  if (data[0] % 4 == 1) check_process(data + 1, bytes - 1);
  if (data[0] % 4 == 2) check_name(data + 1, bytes - 1);
  return 0;
}
