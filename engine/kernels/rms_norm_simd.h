// Root-mean-square normalisation.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `rms_norm` in table.h; definition: docs/numerics.md, step 2.1. Ordered float.
// Padding in, padding out: x and w are +0 at and after `n`, so y is too.
#pragma once

#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

void rms_norm(const float* x, const float* w, uint32_t n, uint32_t n_padded, float eps, float* y) {
  float sum_of_squares[1];
  dot16_rows<1>(x, x, 0, n_padded, sum_of_squares);
  const float mean = sum_of_squares[0] / static_cast<float>(n);
  const float r = 1.0f / __builtin_sqrtf(mean + eps);
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    store_lanes(y + base, (load_lanes(x + base) * r) * load_lanes(w + base));
  }
}

}  // namespace
}  // namespace bitnet::kernels
