// quantize_int8 and quantize_split on sixteen lanes; included by float_<isa>.cc, which names them.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/lanes_simd.h"
#include "kernels/quantize.h"

namespace bitnet::kernels {
namespace {

inline float amax_at_least_min(const float* x, uint32_t n_padded) {
  const float largest = amax(x, n_padded);
  return largest < kAmaxMin ? kAmaxMin : largest;
}

/// The value that an int8 keeps of each lane. It changes nothing but what stands for NaN, which is
/// any integer: sums of codes then stay in int32 whatever the activations are.
inline i32x16 as_int8(i32x16 value) { return (value << 24) >> 24; }

}  // namespace

float KERNEL_NAME(quantize_int8)(const float* x, uint32_t n_padded, int8_t* codes, int32_t* sum) {
  const float s = kInt8CodeMax / amax_at_least_min(x, n_padded);
  i32x16 total = {};
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    const i32x16 integers = as_int8(rne(load_lanes(x + base) * s));
    store_lanes(codes + base, __builtin_convertvector(integers, i8x16));
    total = total + integers;
  }
  *sum = sum_lanes(total);
  return s;
}

float KERNEL_NAME(quantize_split)(const float* x, uint32_t n_padded, int8_t* hi, int8_t* lo,
                                  int32_t* hi_sum, int32_t* lo_sum) {
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
  *hi_sum = sum_lanes(hi_total);
  *lo_sum = sum_lanes(lo_total);
  return largest / kSplitCodeMax;
}

}  // namespace bitnet::kernels
