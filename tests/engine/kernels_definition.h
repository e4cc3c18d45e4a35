// The operations of docs/numerics.md as plain scalar code: the definition that every kernel is held
// against. It is not part of the engine.
// SPDX-License-Identifier: Apache-2.0
//
// Written to be read beside that page: the same names, the same order of operations. Where weights
// stand, docs/formats/model.md says.
#pragma once

#include <cstdint>

#include "base/limits.h"
#include "kernels/table.h"

namespace kernels_definition {

using namespace bitnet;
using namespace bitnet::kernels;

inline uint32_t bits_of(float value) { return __builtin_bit_cast(uint32_t, value); }
inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// The tree over the sixteen lanes: step 8, 4, 2, 1.
inline float sum_lanes(float (&acc)[kLanes]) {
  for (uint32_t step = kLanes / 2; step >= 1; step /= 2) {
    for (uint32_t lane = 0; lane < step; ++lane) acc[lane] = acc[lane] + acc[lane + step];
  }
  return acc[0];
}

/// What a stored element stands for, exactly: itself, or a binary16.
inline float widen(float value) { return value; }
inline float widen(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 0x1fu;
  const uint32_t fraction = half & 0x03ffu;
  if (exponent == 0) {  // zero, or a multiple of 2^-24
    return float_of(sign | bits_of(static_cast<float>(fraction) * 0x1p-24f));
  }
  if (exponent == 0x1f) {  // infinity, or a NaN, made quiet
    return float_of(sign | 0x7f800000u | (fraction == 0 ? 0 : 0x00400000u | fraction << 13));
  }
  return float_of(sign | (exponent + (127 - 15)) << 23 | fraction << 13);
}

/// dot16(x, y); n is a multiple of 16. Element i of y stands at i / 16 * step + i % 16 * lane_step.
template <typename Element>
inline float dot16(const float* x, const Element* y, uint32_t n, uint32_t step = kLanes,
                   uint32_t lane_step = 1) {
  float acc[kLanes] = {};
  for (uint32_t base = 0; base < n; base += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      acc[lane] = acc[lane] + x[base + lane] * widen(y[base / kLanes * step + lane * lane_step]);
    }
  }
  return sum_lanes(acc);
}

/// sum16(x); n is a multiple of 16.
inline float sum16(const float* x, uint32_t n) {
  float acc[kLanes] = {};
  for (uint32_t base = 0; base < n; base += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) acc[lane] = acc[lane] + x[base + lane];
  }
  return sum_lanes(acc);
}

/// max|x|, exact in any order. Compared as integers, so that NaN counts as larger than every
/// number.
inline float amax(const float* x, uint32_t n) {
  uint32_t largest = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
    if (magnitude > largest) largest = magnitude;
  }
  return float_of(largest);
}

/// 1.5 * 2^23: adding it leaves the nearest integer (ties to even) in the low bits of the sum.
constexpr float kRoundingMagic = 12582912.0f;

/// rne(v) for |v| < 2^22.
inline int32_t rne(float v) {
  return static_cast<int32_t>(bits_of(v + kRoundingMagic) - bits_of(kRoundingMagic));
}

/// exp(x) of docs/numerics.md. n is in [-124, 127], so the exponent field neither wraps nor reaches
/// infinity.
inline float exp_ordered(float x) {
  if (x != x) return x;
  if (x < -86.0f) return 0.0f;
  if (x > 88.0f) x = 88.0f;
  const float t = x * 1.44269502f + kRoundingMagic;
  const float n = t - kRoundingMagic;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = (p * (r * r) + r) + 1.0f;
  return float_of(bits_of(y) + (static_cast<uint32_t>(static_cast<int32_t>(n)) << 23));
}

struct SinCos {
  float sin;
  float cos;
};

/// sincos(a) of docs/numerics.md, |a| < 2^20.
inline SinCos sincos_ordered(float a) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  const double d = static_cast<double>(a);
  const double t = d * 0.63661977236758134 + kMagic;
  const double k = t - kMagic;
  double r = d - k * 1.57079632673412561417;
  r = r - k * 6.07710050650619224932e-11;
  const double z = r * r;
  double ps = 1.58969099521155010221e-10;
  ps = ps * z + -2.50507602534068634195e-08;
  ps = ps * z + 2.75573137070700676789e-06;
  ps = ps * z + -1.98412698298579493134e-04;
  ps = ps * z + 8.33333333332248946124e-03;
  ps = ps * z + -1.66666666666666324348e-01;
  const double s = r + (r * z) * ps;
  double pc = -1.13596475577881948265e-11;
  pc = pc * z + 2.08757232129817482790e-09;
  pc = pc * z + -2.75573143513906633035e-07;
  pc = pc * z + 2.48015872894767294178e-05;
  pc = pc * z + -1.38888888888741095749e-03;
  pc = pc * z + 4.16666666666666019037e-02;
  const double c = (1.0 - 0.5 * z) + (z * z) * pc;
  switch (static_cast<int64_t>(k) & 3) {
    case 0:
      return {static_cast<float>(s), static_cast<float>(c)};
    case 1:
      return {static_cast<float>(c), static_cast<float>(-s)};
    case 2:
      return {static_cast<float>(-s), static_cast<float>(-c)};
    default:
      return {static_cast<float>(-c), static_cast<float>(s)};
  }
}

inline void f32_matmul(const float* weights, uint32_t cols_padded, uint32_t row_begin,
                       uint32_t row_end, const float* x, float* y) {
  for (uint32_t row = row_begin; row < row_end; ++row) {
    y[row] = dot16(weights + size_t{row} * cols_padded, x, cols_padded);
  }
}

inline void rms_norm(const float* x, const float* w, uint32_t n, uint32_t n_padded, float eps,
                     float* y) {
  const float mean = dot16(x, x, n_padded) / static_cast<float>(n);
  const float r = 1.0f / __builtin_sqrtf(mean + eps);
  for (uint32_t i = 0; i < n_padded; ++i) y[i] = (x[i] * r) * w[i];
}

inline float amax_at_least_min(const float* x, uint32_t n_padded) {
  const float largest = amax(x, n_padded);
  return largest < 1e-5f ? 1e-5f : largest;
}

inline float quantize_int8(const float* x, uint32_t n_padded, int8_t* codes, int32_t* sum) {
  const float s = 127.0f / amax_at_least_min(x, n_padded);
  *sum = 0;
  for (uint32_t i = 0; i < n_padded; ++i) {
    codes[i] = static_cast<int8_t>(rne(x[i] * s));
    *sum += codes[i];
  }
  return s;
}

inline float quantize_split(const float* x, uint32_t n_padded, int8_t* hi, int8_t* lo,
                            int32_t* hi_sum, int32_t* lo_sum) {
  const float largest = amax_at_least_min(x, n_padded);
  const float s = 16256.0f / largest;
  *hi_sum = 0;
  *lo_sum = 0;
  for (uint32_t i = 0; i < n_padded; ++i) {
    const int32_t q = rne(x[i] * s);
    const int32_t high = (q + 64) >> 7;
    hi[i] = static_cast<int8_t>(high);
    lo[i] = static_cast<int8_t>(q - 128 * high);
    *hi_sum += hi[i];
    *lo_sum += lo[i];
  }
  return largest / 16256.0f;
}

inline void relu2_gate(const float* gate, const float* up, uint32_t n_padded, float* y) {
  for (uint32_t i = 0; i < n_padded; ++i) {
    const float t = gate[i] > 0.0f ? gate[i] : 0.0f;
    y[i] = (t * t) * up[i];
  }
}

inline void silu_gate(const float* gate, const float* up, uint32_t n_padded, float* y) {
  for (uint32_t i = 0; i < n_padded; ++i) {
    y[i] = (gate[i] / (1.0f + exp_ordered(-gate[i]))) * up[i];
  }
}

inline void add_in_place(float* x, const float* y, uint32_t n_padded) {
  for (uint32_t i = 0; i < n_padded; ++i) x[i] = x[i] + y[i];
}

inline void rope(const float* x, const float* sin, const float* cos, uint32_t head_dim, float* y) {
  const uint32_t half = head_dim / 2;
  for (uint32_t i = 0; i < half; ++i) {
    y[i] = x[i] * cos[i] - x[i + half] * sin[i];
    y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
  }
  for (uint32_t i = head_dim; i < pad_lanes(head_dim); ++i) y[i] = 0.0f;
}

inline void rope_angles(uint32_t position, const float* inv_freq, uint32_t n_padded, float* sin,
                        float* cos) {
  for (uint32_t i = 0; i < n_padded; ++i) {
    const SinCos value = sincos_ordered(static_cast<float>(position) * inv_freq[i]);
    sin[i] = value.sin;
    cos[i] = value.cos;
  }
}

inline float exp_sum(const float* x, float max, uint32_t n, uint32_t n_padded, float* e) {
  for (uint32_t i = 0; i < n; ++i) e[i] = exp_ordered(x[i] - max);
  for (uint32_t i = n; i < n_padded; ++i) e[i] = 0.0f;
  return sum16(e, n_padded);
}

/// The weights of a row in place of its scores; returns 1 / z.
inline float weigh_scores(float* scores, uint32_t position_count) {
  float max = scores[0];
  for (uint32_t t = 1; t < position_count; ++t) {
    if (scores[t] > max) max = scores[t];
  }
  return 1.0f / exp_sum(scores, max, position_count, pad_lanes(position_count), scores);
}

/// One row: the query `q` against positions [0, position_count).
template <typename Element>
inline void attend_row(const float* q, const Element* k, const Element* v, uint32_t position_count,
                       uint32_t dim, float scale, float* scores, float* out) {
  for (uint32_t t = 0; t < position_count; ++t) {
    const Element* key = k + size_t{t / kLanes} * kLanes * dim + t % kLanes;
    scores[t] = dot16(q, key, dim, kLanes, dim) * scale;
  }
  const float inverse = weigh_scores(scores, position_count);
  for (uint32_t i = 0; i < dim; ++i) out[i] = 0.0f;
  for (uint32_t t = 0; t < position_count; ++t) {
    const Element* block = v + size_t{t / 32} * 32 * dim;
    for (uint32_t i = 0; i < dim; ++i) {
      const Element value = block[(i / kLanes * 32 + t % 32) * kLanes + i % kLanes];
      out[i] = out[i] + scores[t] * widen(value);
    }
  }
  for (uint32_t i = 0; i < dim; ++i) out[i] = out[i] * inverse;
}

/// x as 15-bit integers; returns what one of them is worth, NaN where x is not finite.
inline float integers_of(const float* x, uint32_t n, float least, int32_t* integers) {
  const float found = amax(x, n);
  const float largest = found < least ? least : found;
  const float s = 16256.0f / largest;
  const bool finite = largest - largest == 0.0f;
  for (uint32_t i = 0; i < n; ++i) integers[i] = finite ? rne(x[i] * s) : 0;
  return ((largest - largest) + largest) / 16256.0f;
}

/// Keys or values in int8.
struct Int8Rows {
  const int8_t* codes;
  const float* scales;
};

/// One row over keys and values in int8, laid out as table.h says.
inline void attend_row(const float* q, const Int8Rows& k, const Int8Rows& v,
                       uint32_t position_count, uint32_t dim, float scale, float* scores,
                       float* out) {
  constexpr uint32_t kBlock = 128;
  int32_t query[kHeadDimMax];
  const float unit = integers_of(q, dim, 1e-5f, query) * scale;
  for (uint32_t t = 0; t < position_count; ++t) {
    const int8_t* key = k.codes + size_t{t / kLanes} * kLanes * dim + t % kLanes * 4;
    int32_t sum = 0;
    for (uint32_t i = 0; i < dim; ++i) sum += query[i] * key[i / 4 * 4 * kLanes + i % 4];
    scores[t] = (static_cast<float>(sum) * unit) * k.scales[t];
  }
  const float inverse = weigh_scores(scores, position_count);
  for (uint32_t i = 0; i < dim; ++i) out[i] = 0.0f;
  for (uint32_t begin = 0; begin < position_count; begin += kBlock) {
    const uint32_t count = position_count - begin < kBlock ? position_count - begin : kBlock;
    float scaled[kBlock];
    int32_t weights[kBlock];
    for (uint32_t t = 0; t < count; ++t) scaled[t] = scores[begin + t] * v.scales[begin + t];
    const float worth = integers_of(scaled, count, 1e-30f, weights);
    for (uint32_t i = 0; i < dim; ++i) {
      int32_t sum = 0;
      for (uint32_t t = 0; t < count; ++t) {
        const size_t tile = size_t{begin} * dim + i / kLanes * kLanes * kBlock;
        sum += weights[t] * v.codes[tile + t / 4 * 4 * kLanes + i % kLanes * 4 + t % 4];
      }
      out[i] = out[i] + static_cast<float>(sum) * worth;
    }
  }
  for (uint32_t i = 0; i < dim; ++i) out[i] = out[i] * inverse;
}

template <typename Rows>
inline void attend(const AttentionQueries& queries, const Rows& k, const Rows& v,
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

template <typename Element>
inline void attention(const AttentionQueries& queries, const CacheRows& k, const CacheRows& v,
                      const AttentionRows& rows) {
  attend(queries, static_cast<const Element*>(k.rows), static_cast<const Element*>(v.rows), rows);
}

inline void attention_int8(const AttentionQueries& queries, const CacheRows& k, const CacheRows& v,
                           const AttentionRows& rows) {
  const Int8Rows keys{static_cast<const int8_t*>(k.rows), k.scales};
  const Int8Rows values{static_cast<const int8_t*>(v.rows), v.scales};
  attend(queries, keys, values, rows);
}

/// `value` in units of 2^-`shift`, rounded to the nearest integer, ties to even. shift is 1 ... 24.
inline uint32_t shift_right_rounded(uint32_t value, uint32_t shift) {
  const uint32_t kept = value >> shift;
  const uint32_t rest = value & ((1u << shift) - 1);
  const uint32_t tie = 1u << (shift - 1);
  return kept + (rest > tie || (rest == tie && kept % 2 == 1) ? 1 : 0);
}

/// The bits of the nearest binary16.
inline uint32_t half_of(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t exponent = bits >> 23 & 0xffu;
  const uint32_t fraction = bits & 0x007fffffu;
  constexpr uint32_t kInfinity = 0x7c00u;
  if (exponent == 0xff) return sign | kInfinity | (fraction == 0 ? 0 : 0x0200u | fraction >> 13);
  if (exponent >= 127 + 16) return sign | kInfinity;
  if (exponent >= 127 - 14) {
    // A carry out of the fraction goes into the exponent, and from the largest one to infinity.
    return sign | shift_right_rounded((exponent - (127 - 15)) << 23 | fraction, 13);
  }
  // Subnormal: an integer times 2^-24. Below 2^-25 everything is zero.
  if (exponent < 127 - 25) return sign;
  return sign | shift_right_rounded(0x00800000u | fraction, 126 - exponent);
}

inline void store_f16(const float* x, uint32_t n_padded, uint16_t* half) {
  for (uint32_t i = 0; i < n_padded; ++i) half[i] = static_cast<uint16_t>(half_of(x[i]));
}

inline float store_int8(const float* x, uint32_t n_padded, int8_t* codes) {
  const float largest = amax_at_least_min(x, n_padded);
  const float s = 127.0f / largest;
  for (uint32_t i = 0; i < n_padded; ++i) codes[i] = static_cast<int8_t>(rne(x[i] * s));
  return largest / 127.0f;
}

/// Weight of row `row` of a tile of 16 rows: code - 1, four columns' codes in a byte.
inline int32_t ternary_weight(const uint8_t* tile, uint32_t row, uint32_t col) {
  const uint32_t inside = col % 16;
  return (tile[size_t{col / 16} * 64 + 4 * row + inside % 4] >> (2 * (inside / 4)) & 3) - 1;
}

inline void ternary_matmul(const TileRange& tiles, const Int8Tokens& x, float* y, size_t y_stride) {
  const size_t tile_bytes = size_t{tiles.cols_padded} * kTileRows / 4;
  for (uint32_t row = tiles.tile_begin * kTileRows; row < tiles.tile_end * kTileRows; ++row) {
    const uint8_t* tile = tiles.weights + row / kTileRows * tile_bytes;
    for (uint32_t t = 0; t < x.token_count; ++t) {
      int32_t sum = 0;
      for (uint32_t col = 0; col < tiles.cols_padded; ++col) {
        sum += ternary_weight(tile, row % kTileRows, col) * x.codes[t * x.stride + col];
      }
      y[t * y_stride + row] = static_cast<float>(sum) * x.multipliers[t];
    }
  }
}

/// High nibble of a stored byte of row `row` of a tile of 16 rows.
inline int32_t high_nibble(const uint8_t* tile, uint32_t row, uint32_t col) {
  const uint32_t inside = col % 8;
  return tile[size_t{col / 8} * 64 + 4 * row + inside % 4] >> (4 * (inside / 4)) & 15;
}

inline void int8_high(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums) {
  for (size_t row = 0; row < size_t{tiles.tile_count} * kTileRows; ++row) {
    const uint8_t* tile = tiles.high + row / kTileRows * (size_t{tiles.cols_padded} * 8);
    sums.hi[row] = 0;
    sums.lo[row] = 0;
    for (uint32_t col = 0; col < tiles.cols_padded; ++col) {
      const int32_t weight = 16 * high_nibble(tile, row % kTileRows, col);
      sums.hi[row] += weight * x.hi[col];
      sums.lo[row] += weight * x.lo[col];
    }
  }
}

/// Low nibble of a stored byte of a row; its columns stand 128 in 64 bytes.
inline int32_t low_nibble(const uint8_t* row, uint32_t col) {
  return row[col / 128 * 64 + col % 64] >> (4 * (col % 128 / 64)) & 15;
}

inline void int8_low(const LowRows& rows, const SplitState& x, const PlaneSums& sums) {
  for (uint32_t i = 0; i < rows.row_count; ++i) {
    const uint32_t row = rows.rows[i];
    for (uint32_t col = 0; col < rows.block_count * 128; ++col) {
      const int32_t weight = low_nibble(rows.low + row * rows.row_bytes, col);
      sums.hi[row] += weight * x.hi[col];
      sums.lo[row] += weight * x.lo[col];
    }
  }
}

inline KernelTable definition() {
  KernelTable table;
  table.ternary_matmul = ternary_matmul;
  table.int8_high = int8_high;
  table.int8_low = int8_low;
  table.f32_matmul = f32_matmul;
  table.rms_norm = rms_norm;
  table.quantize_int8 = quantize_int8;
  table.quantize_split = quantize_split;
  table.relu2_gate = relu2_gate;
  table.silu_gate = silu_gate;
  table.add_in_place = add_in_place;
  table.rope = rope;
  table.rope_angles = rope_angles;
  table.attention[0] = attention<float>;
  table.attention[1] = attention<uint16_t>;
  table.attention[2] = attention_int8;
  table.exp_sum = exp_sum;
  table.store_f16 = store_f16;
  table.store_int8 = store_int8;
  table.name = "definition";
  return table;
}

}  // namespace kernels_definition
