// The definition of store_f16 and store_int8, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/building_blocks_ref.h"
#include "kernels/cache_rows.h"

namespace bitnet::kernels {
namespace {

/// `value` in units of 2^-`shift`, rounded to the nearest integer, ties to even. shift is 1 ... 24.
uint32_t shift_right_rounded(uint32_t value, uint32_t shift) {
  const uint32_t kept = value >> shift;
  const uint32_t rest = value & ((1u << shift) - 1);
  const uint32_t tie = 1u << (shift - 1);
  return kept + (rest > tie || (rest == tie && kept % 2 == 1) ? 1 : 0);
}

/// The bits of the nearest binary16.
uint32_t half_of(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t exponent = bits >> 23 & 0xffu;
  const uint32_t fraction = bits & 0x007fffffu;
  constexpr uint32_t kInfinity = 0x7c00u;
  if (exponent == 0xff) return sign | kInfinity | (fraction == 0 ? 0 : 0x0200u | fraction >> 13);
  if (exponent >= 127 + 16) return sign | kInfinity;
  if (exponent >= 127 - 14) {
    // A carry out of the fraction goes into the exponent, and from the largest one to infinity.
    return sign | shift_right_rounded((exponent - (127 - 15)) << 23 | fraction, 13);
  }
  // Subnormal: an integer times 2^-24. Below 2^-25 everything is zero.
  if (exponent < 127 - 25) return sign;
  return sign | shift_right_rounded(0x00800000u | fraction, 126 - exponent);
}

}  // namespace

void store_f16_ref(const float* x, uint32_t n_padded, uint16_t* half) {
  for (uint32_t i = 0; i < n_padded; ++i) half[i] = static_cast<uint16_t>(half_of(x[i]));
}

float store_int8_ref(const float* x, uint32_t n_padded, int8_t* codes) {
  float largest = amax(x, n_padded);
  if (largest < kCacheAmaxMin) largest = kCacheAmaxMin;
  const float s = kCacheCodeMax / largest;
  for (uint32_t i = 0; i < n_padded; ++i) codes[i] = static_cast<int8_t>(rne(x[i] * s));
  return largest / kCacheCodeMax;
}

}  // namespace bitnet::kernels
