// The definition of attention and exp_sum, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"
#include "kernels/building_blocks_ref.h"

namespace bitnet::kernels {
namespace {

/// Keys or values, element by element as `widen` has them; int8 alone has a scale for each
/// position.
template <typename Element>
struct Cached {
  const Element* data;
  const float* scales;

  float scaled(float value, uint32_t t) const {
    return scales == nullptr ? value : value * scales[t];
  }
};

/// One row: the query `q` against positions [0, position_count).
template <typename Element>
void attend_row(const float* q, const Cached<Element>& k, const Cached<Element>& v,
                uint32_t position_count, uint32_t dim, float scale, float* scores, float* out) {
  for (uint32_t t = 0; t < position_count; ++t) {
    const Element* key = k.data + size_t{t / kLanes} * kLanes * dim + t % kLanes;
    scores[t] = k.scaled(dot16(q, key, dim, kLanes), t) * scale;
  }
  float max = scores[0];
  for (uint32_t t = 1; t < position_count; ++t) {
    if (scores[t] > max) max = scores[t];
  }
  const float z = exp_sum_ref(scores, max, position_count, pad_lanes(position_count), scores);
  for (uint32_t i = 0; i < dim; ++i) out[i] = 0.0f;
  for (uint32_t t = 0; t < position_count; ++t) {
    const Element* value = v.data + size_t{t} * dim;
    scores[t] = v.scaled(scores[t], t);
    for (uint32_t i = 0; i < dim; ++i) out[i] = out[i] + scores[t] * widen(value[i]);
  }
  const float inverse = 1.0f / z;
  for (uint32_t i = 0; i < dim; ++i) out[i] = out[i] * inverse;
}

template <typename Element>
void attend(const AttentionQueries& queries, const Cached<Element>& k, const Cached<Element>& v,
            const AttentionRows& rows) {
  const uint32_t dim = queries.head_dim_padded;
  for (uint32_t t = 0; t < queries.token_count; ++t) {
    for (uint32_t head = 0; head < queries.head_count; ++head) {
      const size_t row = size_t{t} * queries.head_count + head;
      attend_row(queries.q + t * queries.stride + size_t{head} * dim, k, v,
                 queries.position_count + t, dim, queries.scale,
                 rows.scores + row * rows.score_stride, rows.out + row * dim);
    }
  }
}

}  // namespace

float exp_sum_ref(const float* x, float max, uint32_t n, uint32_t n_padded, float* e) {
  for (uint32_t i = 0; i < n; ++i) e[i] = exp_ordered(x[i] - max);
  for (uint32_t i = n; i < n_padded; ++i) e[i] = 0.0f;
  return sum16(e, n_padded);
}

void attention_ref(const AttentionQueries& queries, const float* k, const float* v,
                   const AttentionRows& rows) {
  attend<float>(queries, {k, nullptr}, {v, nullptr}, rows);
}

void attention_f16_ref(const AttentionQueries& queries, const uint16_t* k, const uint16_t* v,
                       const AttentionRows& rows) {
  attend<uint16_t>(queries, {k, nullptr}, {v, nullptr}, rows);
}

void attention_int8_ref(const AttentionQueries& queries, const Int8Rows& k, const Int8Rows& v,
                        const AttentionRows& rows) {
  attend<int8_t>(queries, {k.codes, k.scales}, {v.codes, v.scales}, rows);
}

}  // namespace bitnet::kernels
