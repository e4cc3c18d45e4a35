// Attention of the query heads of a group over a cache of floats, and the exponentials that the
// sampler shares with it.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `attention` of f32 and binary16, `exp_sum` in table.h; definition: docs/numerics.md,
// `exp`, step 2.5 and "The KV cache".
// Ordered float: a score is summed in sixteen lanes and a tree, as is the normaliser; positions are
// summed in order. So a row does not depend on which other rows are in the call.
// On return row r of `scores` holds the weights e[t] of its n positions, then +0 up to
// pad_lanes(n).
// `exp_sum` reads nothing at and after `n`: what lies there may be anything, NaN included.
#pragma once

#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

// Rows whose sums stay in registers together. Each key and value is widened once for that many.
#if defined(__AVX512F__)
constexpr uint32_t kRowsAtOnce = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr uint32_t kRowsAtOnce = 4;
#else  // sixteen registers of four lanes have no room for more
constexpr uint32_t kRowsAtOnce = 1;
#endif
/// Hides that *from is the same as before, so that each product with it takes it from memory, as
/// AVX-512 does at no cost; held in a register it takes a slot of the multiplications to get there.
inline void read_again([[maybe_unused]] const float*& from) {
#if defined(__AVX512F__)
  __asm__("" : "+r"(from));
#endif
}
/// Bytes ahead that keys are asked for.
constexpr size_t kPrefetchBytes = 8192;

/// Packs queries [lane][dim / 16][n] for each n rows that each_rows takes together, those after one
/// another.
inline void pack_queries(const AttentionQueries& queries, uint32_t row_count, float* packed) {
  const uint32_t dim = queries.head_dim_padded;
  uint32_t at_once = kRowsAtOnce;
  for (uint32_t row = 0; row < row_count; row += at_once) {
    while (at_once > row_count - row) at_once /= 2;
    for (uint32_t r = 0; r < at_once; ++r) {
      const uint32_t token = (row + r) / queries.head_count;
      const uint32_t head = (row + r) % queries.head_count;
      const float* q = queries.q + token * queries.stride + size_t{head} * dim;
      for (uint32_t i = 0; i < dim; ++i) {
        const uint32_t place = i % kLanes * (dim / kLanes) + i / kLanes;
        packed[row * dim + place * at_once + r] = q[i];
      }
    }
  }
}

/// The tree of dot16 over the lanes of each row.
template <uint32_t kRows>
inline void add_tree(f32x16 (&lanes)[kLanes][kRows]) {
  for (uint32_t step = kLanes / 2; step >= 1; step /= 2) {
    for (uint32_t lane = 0; lane < step; ++lane) {
      for (uint32_t r = 0; r < kRows; ++r) lanes[lane][r] = lanes[lane][r] + lanes[lane + step][r];
    }
  }
}

/// sums[r] = dot16 of each row with sixteen keys, one in each lane of the vectors here: a lane of
/// dot16 after the other, so that keys are read strictly forward. q: [lane][dim / 16][kRows]; keys:
/// [lane][dim / 16][16].
template <uint32_t kRows, typename Element>
inline void dot16_block(const float* q, const Element* keys, uint32_t dim, f32x16 (&sums)[kRows]) {
  f32x16 lanes[kLanes][kRows];
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    f32x16 acc[kRows] = {};
    for (uint32_t step = dim / kLanes; step > 0; --step) {
      __builtin_prefetch(keys + kPrefetchBytes / sizeof(Element));
      const f32x16 key = load_lanes(keys);
      for (uint32_t r = 0; r < kRows; ++r) acc[r] = acc[r] + q[r] * key;
      keys += kLanes;
      q += kRows;
    }
    for (uint32_t r = 0; r < kRows; ++r) lanes[lane][r] = acc[r];
  }
  add_tree(lanes);
  for (uint32_t r = 0; r < kRows; ++r) sums[r] = lanes[0][r];
}

/// Scores of all rows with the positions of the last one. packed: from pack_queries.
template <typename Element>
inline void score_positions(const float* packed, const Element* k, uint32_t row_count,
                            uint32_t position_count, uint32_t dim, float scale,
                            const AttentionRows& to) {
  for (uint32_t t = 0; t < position_count; t += kLanes) {
    each_rows<kRowsAtOnce>(0, row_count, [&](auto rows, uint32_t row) {
      f32x16 sums[rows.value];
      dot16_block<rows.value>(packed + row * dim, k + size_t{t} * dim, dim, sums);
      for (uint32_t r = 0; r < rows.value; ++r) {
        store_lanes(to.scores + (row + r) * to.score_stride + t, sums[r] * scale);
      }
    });
  }
}

float exp_sum(const float* x, float max, uint32_t n, uint32_t n_padded, float* e) {
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

/// The weights of one row in place of its scores, and 1 / z.
inline float weights_of_scores(float* scores, uint32_t position_count) {
  f32x16 largest = splat(scores[0]);
  for (uint32_t t = 0; t < position_count; t += kLanes) {
    const i32x16 inside = lane_numbers() < static_cast<int32_t>(position_count - t);
    largest = max_lanes(select_lanes(inside, load_lanes(scores + t), largest), largest);
  }
  float max = largest[0];
  for (uint32_t lane = 1; lane < kLanes; ++lane) max = largest[lane] > max ? largest[lane] : max;
  return 1.0f / exp_sum(scores, max, position_count, pad_lanes(position_count), scores);
}

/// The weights of all rows in place of their scores, 1 / z of each, and +0 in all outputs.
inline void weights_of_rows(const AttentionQueries& queries, uint32_t row_count,
                            const AttentionRows& to, float* inverse) {
  for (uint32_t row = 0; row < row_count; ++row) {
    inverse[row] = weights_of_scores(to.scores + row * to.score_stride,
                                     queries.position_count + row / queries.head_count);
  }
  for (uint32_t i = 0; i < row_count * queries.head_dim_padded; i += kLanes) {
    store_lanes(to.out + i, f32x16{});
  }
}

inline void scale_rows(const AttentionQueries& queries, uint32_t row_count, const AttentionRows& to,
                       const float* inverse) {
  const uint32_t dim = queries.head_dim_padded;
  for (uint32_t row = 0; row < row_count; ++row) {
    for (uint32_t i = row * dim; i < (row + 1) * dim; i += kLanes) {
      store_lanes(to.out + i, load_lanes(to.out + i) * inverse[row]);
    }
  }
}

/// Positions [begin, end).
struct Positions {
  uint32_t begin;
  uint32_t end;
};

/// Adds positions of a block to sixteen columns of each row: in order, each column a sum of its
/// own. values: [kFloatValueBlock][16].
template <uint32_t kRows, typename Element>
inline void add_values(const float* weights, size_t weight_stride, const Element* values,
                       Positions positions, float* out, uint32_t dim) {
  f32x16 acc[kRows];
  const float* row_weights[kRows];
  for (uint32_t r = 0; r < kRows; ++r) {
    acc[r] = load_lanes(out + r * dim);
    row_weights[r] = weights + r * weight_stride;
  }
  for (uint32_t t = positions.begin; t < positions.end; ++t) {
    const f32x16 value = load_lanes(values + t * kLanes);
    for (uint32_t r = 0; r < kRows; ++r) {
      read_again(row_weights[r]);
      acc[r] = acc[r] + row_weights[r][t] * value;
    }
  }
  for (uint32_t r = 0; r < kRows; ++r) store_lanes(out + r * dim, acc[r]);
}

/// Adds the positions to rows [row_begin, row_end), block by block: values pass by all rows and
/// columns before the next, so that they stay in the L1 cache.
template <typename Element>
inline void weigh_values(const AttentionRows& to, const Element* values, uint32_t dim,
                         uint32_t row_begin, uint32_t row_end, Positions all) {
  for (uint32_t block = all.begin / kFloatValueBlock * kFloatValueBlock; block < all.end;
       block += kFloatValueBlock) {
    const uint32_t left = all.end - block;
    const Positions inside{all.begin > block ? all.begin - block : 0,
                           left < kFloatValueBlock ? left : kFloatValueBlock};
    const Element* from = values + size_t{block} * dim;
    each_rows<kRowsAtOnce>(row_begin, row_end, [&](auto rows, uint32_t row) {
      for (uint32_t i = 0; i < dim; i += kLanes) {
        add_values<rows.value>(to.scores + row * to.score_stride + block, to.score_stride,
                               from + i * kFloatValueBlock, inside, to.out + row * dim + i, dim);
      }
    });
  }
}

template <typename Element>
void attention(const AttentionQueries& queries, const CacheRows& k, const CacheRows& v,
               const AttentionRows& to) {
  const auto* keys = static_cast<const Element*>(k.rows);
  const auto* values = static_cast<const Element*>(v.rows);
  const uint32_t heads = queries.head_count;
  const uint32_t row_count = heads * queries.token_count;
  const uint32_t common = queries.position_count;
  const uint32_t dim = queries.head_dim_padded;
  pack_queries(queries, row_count, to.out);  // the result comes later
  score_positions(to.out, keys, row_count, common + queries.token_count - 1, dim, queries.scale,
                  to);
  float inverse[kAttentionRowsMax];
  weights_of_rows(queries, row_count, to, inverse);
  weigh_values(to, values, dim, 0, row_count, {0, common});
  for (uint32_t t = 1; t < queries.token_count; ++t) {
    weigh_values(to, values, dim, t * heads, (t + 1) * heads, {common, common + t});
  }
  scale_rows(queries, row_count, to, inverse);
}

}  // namespace
}  // namespace bitnet::kernels
