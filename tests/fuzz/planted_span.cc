// A harness with a span's overrun into memory of the same object, which no sanitizer sees: proof
// that the library's checks are on in what is fuzzed.
// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static uint8_t rows[2][16];
  if (bytes < 2 || data[0] != 's') return 0;
  std::memcpy(rows[1], data, 2);
  const std::span<const uint8_t> first(rows[0]);
  const volatile uint8_t seen = first[data[1] % 20u];
  (void)seen;
  return 0;
}
