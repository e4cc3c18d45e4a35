// The definition of rope and rope_angles, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/building_blocks_ref.h"
#include "kernels/rope.h"

namespace bitnet::kernels {

void rope_ref(const float* x, const float* sin, const float* cos, uint32_t head_dim, float* y) {
  const uint32_t half = head_dim / 2;
  for (uint32_t i = 0; i < half; ++i) {
    y[i] = x[i] * cos[i] - x[i + half] * sin[i];
    y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
  }
  for (uint32_t i = head_dim; i < pad_lanes(head_dim); ++i) y[i] = 0.0f;
}

void rope_angles_ref(uint32_t position, const float* inv_freq, uint32_t count, float* sin,
                     float* cos) {
  for (uint32_t i = 0; i < count; ++i) {
    const SinCos value = sincos_ordered(static_cast<float>(position) * inv_freq[i]);
    sin[i] = value.sin;
    cos[i] = value.cos;
  }
}

}  // namespace bitnet::kernels
