// attention and exp_sum on sixteen lanes; included by float_<isa>.cc, which names them.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"
#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

/// Rows of a cache as `load_lanes` reads them; int8 alone has a scale for each row.
template <typename Element>
struct Rows {
  const Element* data;
  const float* scales;

  float scaled(float value, uint32_t t) const {
    if constexpr (std::is_same_v<Element, int8_t>) return value * scales[t];
    return value;
  }
};

/// scores[t] = dot16(q, k_t), scaled; returns their maximum.
template <typename Element>
inline float score_positions(const float* q, const Rows<Element>& k, uint32_t position_count,
                             uint32_t head_dim_padded, float scale, float* scores) {
  constexpr uint32_t kRows = 4;
  uint32_t t = 0;
  for (; position_count - t >= kRows; t += kRows) {
    float sums[kRows];
    dot16_rows<kRows>(q, k.data + size_t{t} * head_dim_padded, head_dim_padded, head_dim_padded,
                      sums);
    for (uint32_t row = 0; row < kRows; ++row) {
      scores[t + row] = k.scaled(sums[row], t + row) * scale;
    }
  }
  for (; t < position_count; ++t) {
    float sums[1];
    dot16_rows<1>(q, k.data + size_t{t} * head_dim_padded, head_dim_padded, head_dim_padded, sums);
    scores[t] = k.scaled(sums[0], t) * scale;
  }
  float max = scores[0];
  for (t = 1; t < position_count; ++t) max = scores[t] > max ? scores[t] : max;
  return max;
}

/// Columns [first, first + 16 * kVectors): positions in order, each column a sum of its own.
template <uint32_t kVectors, typename Element>
inline void weigh_values(const float* e, const Rows<Element>& v, uint32_t position_count,
                         uint32_t head_dim_padded, uint32_t first, float inverse, float* out) {
  f32x16 acc[kVectors] = {};
  for (uint32_t t = 0; t < position_count; ++t) {
    const Element* row = v.data + size_t{t} * head_dim_padded + first;
    const float weight = v.scaled(e[t], t);
    for (uint32_t i = 0; i < kVectors; ++i) acc[i] = acc[i] + weight * load_lanes(row + i * kLanes);
  }
  for (uint32_t i = 0; i < kVectors; ++i) store_lanes(out + first + i * kLanes, acc[i] * inverse);
}

template <typename Element>
inline void attend(const float* q, const Rows<Element>& k, const Rows<Element>& v,
                   uint32_t position_count, uint32_t head_dim_padded, float scale, float* scores,
                   float* out) {
  constexpr uint32_t kVectors = 4;
  const float max = score_positions(q, k, position_count, head_dim_padded, scale, scores);
  const float z =
      KERNEL_NAME(exp_sum)(scores, max, position_count, pad_lanes(position_count), scores);
  const float inverse = 1.0f / z;
  uint32_t i = 0;
  for (; head_dim_padded - i >= kVectors * kLanes; i += kVectors * kLanes) {
    weigh_values<kVectors>(scores, v, position_count, head_dim_padded, i, inverse, out);
  }
  for (; i < head_dim_padded; i += kLanes) {
    weigh_values<1>(scores, v, position_count, head_dim_padded, i, inverse, out);
  }
}

}  // namespace

float KERNEL_NAME(exp_sum)(const float* x, float max, uint32_t n, uint32_t n_padded, float* e) {
  f32x16 total = {};
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    const i32x16 inside = lane_numbers() < static_cast<int32_t>(n) - static_cast<int32_t>(base);
    const f32x16 value = exp_ordered(load_lanes(x + base) - max);
    const f32x16 kept = lanes_of_bits(bits_of_lanes(value) & inside);
    store_lanes(e + base, kept);
    total = total + kept;
  }
  return sum_lanes(total);
}

void KERNEL_NAME(attention)(const float* q, const float* k, const float* v, uint32_t position_count,
                            uint32_t head_dim_padded, float scale, float* scores, float* out) {
  attend<float>(q, {k, nullptr}, {v, nullptr}, position_count, head_dim_padded, scale, scores, out);
}

void KERNEL_NAME(attention_f16)(const float* q, const uint16_t* k, const uint16_t* v,
                                uint32_t position_count, uint32_t head_dim_padded, float scale,
                                float* scores, float* out) {
  attend<uint16_t>(q, {k, nullptr}, {v, nullptr}, position_count, head_dim_padded, scale, scores,
                   out);
}

void KERNEL_NAME(attention_int8)(const float* q, const Int8Rows& k, const Int8Rows& v,
                                 uint32_t position_count, uint32_t head_dim_padded, float scale,
                                 float* scores, float* out) {
  attend<int8_t>(q, {k.codes, k.scales}, {v.codes, v.scales}, position_count, head_dim_padded,
                 scale, scores, out);
}

}  // namespace bitnet::kernels
