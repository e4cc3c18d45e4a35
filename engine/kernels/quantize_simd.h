// Activations to integers: int8 for the matrices of a layer, 15 bits as two int8 for the head.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `quantize_int8` and `quantize_split` in table.h; definition: docs/numerics.md, steps
// 2.2 and 4. max|x| is exact in any order, everything else is one operation an element.
//
// Range     |x * s| <= 127 (16256) up to one rounding, so the nearest integer is within [-127, 127]
//           ([-16256, 16256]); hi = (q + 64) >> 7 is within [-127, 127] and lo within [-64, 63].
// Padding   x is +0 there, so the codes are 0. Sums are over the padded length.
#pragma once

#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

/// An amax below this is taken as this, so that a vector of zeros has a scale.
constexpr float kAmaxMin = 1e-5f;
constexpr float kInt8CodeMax = 127.0f;
constexpr float kSplitCodeMax = 16256.0f;
static_assert((static_cast<int>(kSplitCodeMax) + 64) >> 7 == 127);

inline float amax_at_least_min(const float* x, uint32_t n_padded) {
  const float largest = amax(x, n_padded);
  return largest < kAmaxMin ? kAmaxMin : largest;
}

/// The value that an int8 keeps of each lane. It changes nothing but what stands for NaN, which is
/// any integer: sums of codes then stay in int32 whatever the activations are.
inline i32x16 as_int8(i32x16 value) { return (value << 24) >> 24; }

float quantize_int8(const float* x, uint32_t n_padded, int8_t* codes, int32_t* sum) {
  const float s = kInt8CodeMax / amax_at_least_min(x, n_padded);
  i32x16 total = {};
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    const i32x16 integers = as_int8(rne(load_lanes(x + base) * s));
    store_lanes(codes + base, __builtin_convertvector(integers, i8x16));
    total = total + integers;
  }
  *sum = __builtin_reduce_add(total);
  return s;
}

float quantize_split(const float* x, uint32_t n_padded, int8_t* hi, int8_t* lo, int32_t* hi_sum,
                     int32_t* lo_sum) {
  const float largest = amax_at_least_min(x, n_padded);
  const float s = kSplitCodeMax / largest;
  i32x16 hi_total = {};
  i32x16 lo_total = {};
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    const i32x16 q = rne(load_lanes(x + base) * s);
    const i32x16 wide = (q + 64) >> 7;
    const i32x16 low = as_int8(q - (wide << 7));
    const i32x16 high = as_int8(wide);
    store_lanes(hi + base, __builtin_convertvector(high, i8x16));
    store_lanes(lo + base, __builtin_convertvector(low, i8x16));
    hi_total = hi_total + high;
    lo_total = lo_total + low;
  }
  *hi_sum = __builtin_reduce_add(hi_total);
  *lo_sum = __builtin_reduce_add(lo_total);
  return largest / kSplitCodeMax;
}

}  // namespace
}  // namespace bitnet::kernels
