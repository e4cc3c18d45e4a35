// The definition of relu2_gate, silu_gate and add_in_place, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/building_blocks_ref.h"
#include "kernels/elementwise.h"

namespace bitnet::kernels {

void relu2_gate_ref(const float* gate, const float* up, uint32_t n_padded, float* y) {
  for (uint32_t i = 0; i < n_padded; ++i) {
    const float t = gate[i] > 0.0f ? gate[i] : 0.0f;
    y[i] = (t * t) * up[i];
  }
}

void silu_gate_ref(const float* gate, const float* up, uint32_t n_padded, float* y) {
  for (uint32_t i = 0; i < n_padded; ++i) {
    y[i] = (gate[i] / (1.0f + exp_ordered(-gate[i]))) * up[i];
  }
}

void add_in_place_ref(float* x, const float* y, uint32_t n_padded) {
  for (uint32_t i = 0; i < n_padded; ++i) x[i] = x[i] + y[i];
}

}  // namespace bitnet::kernels
