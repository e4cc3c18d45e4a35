// A key or value row as the KV cache keeps it: in binary16, or in int8 with a scale.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `store_f16` and `store_int8` in table.h; definition: docs/numerics.md, "The KV cache".
// binary16 is rounded to nearest even, subnormals kept. What is too large becomes infinity; a NaN
// becomes the quiet NaN with the upper bits of its payload, as the processors have it.
// A row with a NaN or an infinity has NaN or infinity as its int8 scale, whatever its codes are.
#pragma once

#include "kernels/lanes_simd.h"
#include "kernels/quantize_simd.h"

namespace bitnet::kernels {
namespace {

void store_f16(const float* x, uint32_t n_padded, uint16_t* half) {
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    store_lanes(half + base, __builtin_convertvector(load_lanes(x + base), f16x16));
  }
}

float store_int8(const float* x, uint32_t n_padded, int8_t* codes) {
  const float largest = amax_at_least_min(x, n_padded);
  const float s = kInt8CodeMax / largest;
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    const i32x16 integers = rne(load_lanes(x + base) * s);
    store_lanes(codes + base, __builtin_convertvector(integers, i8x16));
  }
  return largest / kInt8CodeMax;
}

}  // namespace
}  // namespace bitnet::kernels
