// The definition of rms_norm, written to be read.
// SPDX-License-Identifier: Apache-2.0
//
// Flag: -fno-math-errno, or the compiler adds a call of sqrtf for negative arguments, which do not
// occur; the instruction alone is the IEEE square root.
#include "kernels/building_blocks_ref.h"
#include "kernels/rms_norm.h"

namespace bitnet::kernels {

void rms_norm_ref(const float* x, const float* w, uint32_t n, uint32_t n_padded, float eps,
                  float* y) {
  const float mean = dot16(x, x, n_padded) / static_cast<float>(n);
  const float r = 1.0f / __builtin_sqrtf(mean + eps);
  for (uint32_t i = 0; i < n_padded; ++i) y[i] = (x[i] * r) * w[i];
}

}  // namespace bitnet::kernels
