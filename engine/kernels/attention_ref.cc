// The definition of attention and exp_sum, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"
#include "kernels/building_blocks_ref.h"

namespace bitnet::kernels {
namespace {

/// Rows of a cache, element by element as `widen` has them; int8 alone has a scale for each row.
template <typename Element>
struct Rows {
  const Element* data;
  const float* scales;

  float scaled(float value, uint32_t t) const {
    return scales == nullptr ? value : value * scales[t];
  }
};

template <typename Element>
void attend(const float* q, const Rows<Element>& k, const Rows<Element>& v, uint32_t position_count,
            uint32_t head_dim_padded, float scale, float* scores, float* out) {
  for (uint32_t t = 0; t < position_count; ++t) {
    const Element* key = k.data + size_t{t} * head_dim_padded;
    scores[t] = k.scaled(dot16(q, key, head_dim_padded), t) * scale;
  }
  float max = scores[0];
  for (uint32_t t = 1; t < position_count; ++t) {
    if (scores[t] > max) max = scores[t];
  }
  const float z = exp_sum_ref(scores, max, position_count, pad_lanes(position_count), scores);
  for (uint32_t i = 0; i < head_dim_padded; ++i) out[i] = 0.0f;
  for (uint32_t t = 0; t < position_count; ++t) {
    const Element* value = v.data + size_t{t} * head_dim_padded;
    const float weight = v.scaled(scores[t], t);
    for (uint32_t i = 0; i < head_dim_padded; ++i) out[i] = out[i] + weight * widen(value[i]);
  }
  const float inverse = 1.0f / z;
  for (uint32_t i = 0; i < head_dim_padded; ++i) out[i] = out[i] * inverse;
}

}  // namespace

float exp_sum_ref(const float* x, float max, uint32_t n, uint32_t n_padded, float* e) {
  for (uint32_t i = 0; i < n; ++i) e[i] = exp_ordered(x[i] - max);
  for (uint32_t i = n; i < n_padded; ++i) e[i] = 0.0f;
  return sum16(e, n_padded);
}

void attention_ref(const float* q, const float* k, const float* v, uint32_t position_count,
                   uint32_t head_dim_padded, float scale, float* scores, float* out) {
  attend<float>(q, {k, nullptr}, {v, nullptr}, position_count, head_dim_padded, scale, scores, out);
}

void attention_f16_ref(const float* q, const uint16_t* k, const uint16_t* v,
                       uint32_t position_count, uint32_t head_dim_padded, float scale,
                       float* scores, float* out) {
  attend<uint16_t>(q, {k, nullptr}, {v, nullptr}, position_count, head_dim_padded, scale, scores,
                   out);
}

void attention_int8_ref(const float* q, const Int8Rows& k, const Int8Rows& v,
                        uint32_t position_count, uint32_t head_dim_padded, float scale,
                        float* scores, float* out) {
  attend<int8_t>(q, {k.codes, k.scales}, {v.codes, v.scales}, position_count, head_dim_padded,
                 scale, scores, out);
}

}  // namespace bitnet::kernels
