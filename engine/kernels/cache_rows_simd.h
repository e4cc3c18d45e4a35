// store_f16 and store_int8 on sixteen lanes; included by float_<isa>.cc, which names them.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cache_rows.h"
#include "kernels/lanes_simd.h"

namespace bitnet::kernels {

void KERNEL_NAME(store_f16)(const float* x, uint32_t n_padded, uint16_t* half) {
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    store_lanes(half + base, __builtin_convertvector(load_lanes(x + base), f16x16));
  }
}

float KERNEL_NAME(store_int8)(const float* x, uint32_t n_padded, int8_t* codes) {
  float largest = amax(x, n_padded);
  if (largest < kCacheAmaxMin) largest = kCacheAmaxMin;
  const float s = kCacheCodeMax / largest;
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    const i32x16 integers = rne(load_lanes(x + base) * s);
    store_lanes(codes + base, __builtin_convertvector(integers, i8x16));
  }
  return largest / kCacheCodeMax;
}

}  // namespace bitnet::kernels
