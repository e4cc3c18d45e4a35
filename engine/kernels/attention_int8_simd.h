// Attention over a cache in int8: sums of products of integers, exact in any order.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `attention` of int8 in table.h; definition: docs/numerics.md, "The KV cache", int8.
// Queries, and the weights of values, are 15-bit integers; four of them at a time meet four codes
// that lie together: of a key four elements, of a column of values four positions. The form of four
// integers, and the instructions, are those of the instruction set.
// Range       |integer| <= 16384 and |code| <= 127, so a sum over kHeadDimMax elements or
//             kValueBlock positions stays in int32. (Codes after the last position may be -128;
//             what comes of them is not used, or multiplied with 0.)
// Not finite  A row of queries or weights that is not finite has NaN as its unit, whatever its
//             integers are.
// Measured    docs/performance.md, "Long context".
#pragma once

#include "kernels/attention_simd.h"
#include "kernels/bytes_simd.h"
#include "kernels/quantize_simd.h"

namespace bitnet::kernels {
namespace {

static_assert(16384ull * 127 * kHeadDimMax < (1ull << 31) && kValueBlock <= kHeadDimMax);
/// A largest weight below this is taken as this: a row without weight has a scale, too.
constexpr float kWeightMin = 1e-30f;

// Four    four 15-bit integers.
// Codes   [16][4] codes, ready to be multiplied.
// Dots    sixteen sums; add() adds four products to each.
#if defined(__aarch64__)
constexpr uint32_t kIntegerRows = 2;

/// Each integer is 128 * hi + lo, as in `quantize_split`.
struct Four {
  int8_t hi[4];
  int8_t lo[4];
};
struct Codes {
  int8x16_t quarter[4];
};

inline void pack_fours(i32x16 integers, Four* to) {
  typedef int32_t i32x4 __attribute__((vector_size(16)));
  const i32x16 high = (integers + 64) >> 7;
  const i32x16 low = integers - (high << 7);
  const auto hi = __builtin_bit_cast(i32x4, __builtin_convertvector(high, i8x16));
  const auto lo = __builtin_bit_cast(i32x4, __builtin_convertvector(low, i8x16));
  store_lanes(to, __builtin_shufflevector(hi, lo, 0, 4, 1, 5, 2, 6, 3, 7));
}

/// acc + four products in each lane; |b| <= 127.
inline int32x4_t add_fours(int32x4_t acc, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(acc, a, b);
#else
  const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  return vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(a, b)));
#endif
}

struct Dots {
  int32x4_t hi[4] = {};
  int32x4_t lo[4] = {};

  void add(const Codes& codes, const Four& x) {
    const int32x2_t parts = __builtin_bit_cast(int32x2_t, x);
    const int8x16_t x_hi = vreinterpretq_s8_s32(vdupq_lane_s32(parts, 0));
    const int8x16_t x_lo = vreinterpretq_s8_s32(vdupq_lane_s32(parts, 1));
    for (uint32_t i = 0; i < 4; ++i) {
      hi[i] = add_fours(hi[i], codes.quarter[i], x_hi);
      lo[i] = add_fours(lo[i], codes.quarter[i], x_lo);
    }
  }
  i32x16 total() const {
    return (__builtin_bit_cast(i32x16, hi) << 7) + __builtin_bit_cast(i32x16, lo);
  }
};

inline Codes load_codes(const int8_t* from) { return __builtin_bit_cast(Codes, vld1q_s8_x4(from)); }
#else
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef int16_t i16x32 __attribute__((vector_size(64)));

#if defined(__AVX512VNNI__)
constexpr uint32_t kIntegerRows = 8;
typedef __m512i Register;
inline __m512i add_pairs(__m512i acc, __m512i a, __m512i b) {
  return _mm512_dpwssd_epi32(acc, a, b);
}
#elif defined(__AVX2__)
constexpr uint32_t kIntegerRows = 2;
typedef __m256i Register;
inline __m256i add_pairs(__m256i acc, __m256i a, __m256i b) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}
#else
constexpr uint32_t kIntegerRows = 1;
typedef __m128i Register;
inline __m128i add_pairs(__m128i acc, __m128i a, __m128i b) {
  return _mm_add_epi32(acc, _mm_madd_epi16(a, b));
}
#endif
constexpr uint32_t kRegisters = 2 * sizeof(i16x32) / sizeof(Register);

struct Four {
  int16_t integer[4];
};
struct Codes {
  Register part[kRegisters];
};

inline void pack_fours(i32x16 integers, Four* to) {
  store_lanes(to, __builtin_convertvector(integers, i16x16));
}

/// Products of neighbours are added by the instruction: two sums for each lane.
struct Dots {
  Register pairs[kRegisters] = {};

  void add(const Codes& codes, const Four& x) {
    const Register fours = Register{} + __builtin_bit_cast(int64_t, x);
    for (uint32_t i = 0; i < kRegisters; ++i) {
      pairs[i] = add_pairs(pairs[i], codes.part[i], fours);
    }
  }
  i32x16 total() const {
    const auto sums = __builtin_bit_cast(i32x32, *this);
    return even_lanes(sums) + odd_lanes(sums);
  }
};

inline Codes load_codes(const int8_t* from) {
  struct Quarters {
    i16x16 quarter[4];
  } quarters;
  for (uint32_t i = 0; i < 4; ++i) {
    i8x16 value;
    __builtin_memcpy(&value, from + i * kLanes, sizeof value);
    quarters.quarter[i] = __builtin_convertvector(value, i16x16);
  }
  return __builtin_bit_cast(Codes, quarters);
}
#endif

/// Four codes of each of sixteen lanes.
constexpr size_t kCodesBytes = 4 * kLanes;

/// dots[r] += the products of `steps` times four codes of each lane with row r of x:
/// [steps][kRows].
template <uint32_t kRows>
inline void multiply_codes(const int8_t* codes, uint32_t steps, const Four* x,
                           Dots (&dots)[kRows]) {
  for (uint32_t step = 0; step < steps; ++step) {
    const int8_t* at = codes + step * kCodesBytes;
    __builtin_prefetch(at + kPrefetchBytes);
    const Codes fours = load_codes(at);
    for (uint32_t r = 0; r < kRows; ++r) dots[r].add(fours, x[step * kRows + r]);
  }
}

/// The row x as integers, every fourth `rows` further in `to`; returns what one of them is worth.
inline float pack_row(const float* x, uint32_t n_padded, float least, uint32_t rows, Four* to) {
  const float found = amax(x, n_padded);
  const float largest = found < least ? least : found;
  const float s = kSplitCodeMax / largest;
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    // What stands for a NaN is one of 15 bits, too.
    const i32x16 integers = (rne(load_lanes(x + base) * s) << 17) >> 17;
    Four fours[4];
    pack_fours(integers, fours);
    for (const Four& four : fours) {
      *to = four;
      to += rows;
    }
  }
  return (largest - largest + largest) / kSplitCodeMax;
}

/// The weights of positions [begin, begin + kValueBlock) as integers; those of n and later are 0.
inline float pack_weights(const float* weights, const float* scales, uint32_t begin, uint32_t n,
                          uint32_t rows, Four* to) {
  float scaled[kValueBlock] = {};
  for (uint32_t t = begin; t < n && t < begin + kValueBlock; t += kLanes) {
    const i32x16 inside = lane_numbers() < static_cast<int32_t>(n - t);
    const f32x16 value = load_lanes(weights + t) * load_lanes(scales + t);
    store_lanes(scaled + (t - begin), lanes_of_bits(bits_of_lanes(value) & inside));
  }
  return pack_row(scaled, kValueBlock, kWeightMin, rows, to);
}

inline void score_codes(const AttentionQueries& queries, const CacheRows& k, uint32_t row_count,
                        const AttentionRows& to) {
  const uint32_t dim = queries.head_dim_padded;
  const uint32_t steps = dim / 4;
  const auto* codes = static_cast<const int8_t*>(k.rows);
  Four* packed = reinterpret_cast<Four*>(to.out);  // the result comes later
  static_assert(sizeof(Four) <= 4 * sizeof(float));
  float units[kAttentionRowsMax];
  each_rows<kIntegerRows>(0, row_count, [&](auto rows, uint32_t row) {
    for (uint32_t r = row; r < row + rows.value; ++r) {
      const float* from = queries.q + r / queries.head_count * queries.stride +
                          size_t{r % queries.head_count} * dim;
      Four* const to_row = packed + row * steps + (r - row);
      units[r] = pack_row(from, dim, kAmaxMin, rows.value, to_row) * queries.scale;
    }
  });
  for (uint32_t t = 0; t < queries.position_count + queries.token_count - 1; t += kLanes) {
    const f32x16 scales = load_lanes(k.scales + t);
    each_rows<kIntegerRows>(0, row_count, [&](auto rows, uint32_t row) {
      Dots dots[rows.value];
      multiply_codes(codes + size_t{t} * dim, steps, packed + row * steps, dots);
      for (uint32_t r = 0; r < rows.value; ++r) {
        const f32x16 sums = __builtin_convertvector(dots[r].total(), f32x16);
        store_lanes(to.scores + (row + r) * to.score_stride + t, sums * units[row + r] * scales);
      }
    });
  }
}

/// Adds the values of positions [begin, begin + kValueBlock) to all rows.
inline void weigh_codes(const AttentionQueries& queries, const CacheRows& v, uint32_t row_count,
                        uint32_t begin, const AttentionRows& to) {
  constexpr uint32_t kSteps = kValueBlock / 4;
  const auto* codes = static_cast<const int8_t*>(v.rows);
  const uint32_t dim = queries.head_dim_padded;
  const uint32_t left = queries.position_count + queries.token_count - 1 - begin;
  const uint32_t steps = left < kValueBlock ? (left + 3) / 4 : kSteps;
  each_rows<kIntegerRows>(0, row_count, [&](auto rows, uint32_t row) {
    Four packed[kSteps * rows.value];
    float units[rows.value];
    for (uint32_t r = 0; r < rows.value; ++r) {
      const uint32_t n = queries.position_count + (row + r) / queries.head_count;
      units[r] = pack_weights(to.scores + (row + r) * to.score_stride, v.scales, begin, n,
                              rows.value, packed + r);
    }
    for (uint32_t i = 0; i < dim; i += kLanes) {
      Dots dots[rows.value];
      multiply_codes(codes + size_t{begin} * dim + i * kValueBlock, steps, packed, dots);
      for (uint32_t r = 0; r < rows.value; ++r) {
        float* out = to.out + (row + r) * dim + i;
        const f32x16 sums = __builtin_convertvector(dots[r].total(), f32x16);
        store_lanes(out, load_lanes(out) + sums * units[r]);
      }
    }
  });
}

void attention_int8(const AttentionQueries& queries, const CacheRows& k, const CacheRows& v,
                    const AttentionRows& to) {
  const uint32_t row_count = queries.head_count * queries.token_count;
  score_codes(queries, k, row_count, to);
  float inverse[kAttentionRowsMax];
  weights_of_rows(queries, row_count, to, inverse);
  for (uint32_t t = 0; t < queries.position_count + queries.token_count - 1; t += kValueBlock) {
    weigh_codes(queries, v, row_count, t, to);
  }
  scale_rows(queries, row_count, to, inverse);
}

}  // namespace
}  // namespace bitnet::kernels
