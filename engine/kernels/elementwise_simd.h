// The two gates of the feed-forward part and the residual sum: one result an element.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `Gate` and `add_in_place` in table.h; definition: docs/numerics.md, steps 2.7, 2.9 and
// 2.10.
#pragma once

#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

void relu2_gate(const float* gate, const float* up, uint32_t n_padded, float* y) {
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    const f32x16 t = max_lanes(load_lanes(gate + base), f32x16{});
    store_lanes(y + base, (t * t) * load_lanes(up + base));
  }
}

void silu_gate(const float* gate, const float* up, uint32_t n_padded, float* y) {
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    const f32x16 g = load_lanes(gate + base);
    store_lanes(y + base, (g / (1.0f + exp_ordered(-g))) * load_lanes(up + base));
  }
}

void add_in_place(float* x, const float* y, uint32_t n_padded) {
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    store_lanes(x + base, load_lanes(x + base) + load_lanes(y + base));
  }
}

}  // namespace
}  // namespace bitnet::kernels
