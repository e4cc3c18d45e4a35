// A harness with a defect behind a magic number and a length: proof that the driver finds such.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstring>

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  uint64_t magic;
  if (bytes < sizeof magic) return 0;
  std::memcpy(&magic, data, sizeof magic);
  if (magic != 0x6c6574616e676973u) return 0;
  const volatile uint8_t* rest = data + sizeof magic;
  const size_t length = bytes > sizeof magic ? rest[0] : 0;
  return length > 3 && rest[length] == 7 ? 0 : 0;
}
