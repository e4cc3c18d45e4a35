// The definition of attention and exp_sum, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"
#include "kernels/building_blocks_ref.h"

namespace bitnet::kernels {

float exp_sum_ref(const float* x, float max, uint32_t n, uint32_t n_padded, float* e) {
  for (uint32_t i = 0; i < n; ++i) e[i] = exp_ordered(x[i] - max);
  for (uint32_t i = n; i < n_padded; ++i) e[i] = 0.0f;
  return sum16(e, n_padded);
}

void attention_ref(const float* q, const float* k, const float* v, uint32_t position_count,
                   uint32_t head_dim_padded, float scale, float* scores, float* out) {
  for (uint32_t t = 0; t < position_count; ++t) {
    scores[t] = dot16(q, k + size_t{t} * head_dim_padded, head_dim_padded) * scale;
  }
  float max = scores[0];
  for (uint32_t t = 1; t < position_count; ++t) {
    if (scores[t] > max) max = scores[t];
  }
  const float z = exp_sum_ref(scores, max, position_count, pad_lanes(position_count), scores);
  for (uint32_t i = 0; i < head_dim_padded; ++i) out[i] = 0.0f;
  for (uint32_t t = 0; t < position_count; ++t) {
    const float* value = v + size_t{t} * head_dim_padded;
    for (uint32_t i = 0; i < head_dim_padded; ++i) out[i] = out[i] + scores[t] * value[i];
  }
  const float inverse = 1.0f / z;
  for (uint32_t i = 0; i < head_dim_padded; ++i) out[i] = out[i] * inverse;
}

}  // namespace bitnet::kernels
