// A sealed executable seen from outside: any bytes are one or are refused.
// SPDX-License-Identifier: Apache-2.0
#include "format/executable.h"

#include <cstdlib>

using namespace bitnet;

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  const Result<format::ElfFile> elf = format::parse_elf({data, bytes});
  if (!elf.ok()) return 0;
  (void)format::image_digest(elf.value());
  const size_t note = elf.value().note_offset;
  if (note > bytes || 2 * kDigestBytes > bytes - note) std::abort();
  return 0;
}
