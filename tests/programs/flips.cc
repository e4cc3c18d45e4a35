// bitnet-integrity's own check of a sealed executable, for many flipped bits in one process.
// SPDX-License-Identifier: Apache-2.0
//
//   flips PATH OUTPUT     standard input: a line `PLACE MASK` for each trial, decimal. OUTPUT gets
//   a line `STATUS WHERE VALUE` for each; what the check itself says goes to standard output.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define main integrity_main
#include "programs/integrity.cc"
#undef main

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const auto file = platform::map_file(arguments[1]);
  std::FILE* output = std::fopen(arguments[2], "w");
  if (!file.ok() || output == nullptr) return 1;
  const size_t bytes = file.value().size();
  constexpr size_t kAlign = 64;  // of a model in a mapped file, at least
  auto* copy =
      static_cast<uint8_t*>(std::aligned_alloc(kAlign, (bytes + kAlign) / kAlign * kAlign));
  if (copy == nullptr) return 1;
  std::memcpy(copy, file.value().data(), bytes);
  unsigned long place;
  unsigned int mask;
  while (std::scanf("%lu %u", &place, &mask) == 2 && place < bytes) {
    copy[place] = static_cast<uint8_t>(copy[place] ^ mask);
    const Result<format::ElfFile> elf = format::parse_elf({copy, bytes});
    const Error error = elf.ok() ? check_file(elf.value()) : elf.error();
    std::fprintf(output, "%u %llu %llu\n", static_cast<unsigned>(error.status),
                 static_cast<unsigned long long>(error.where),
                 static_cast<unsigned long long>(error.value));
    copy[place] = static_cast<uint8_t>(copy[place] ^ mask);
  }
  return std::fclose(output) == 0 ? 0 : 1;
}
