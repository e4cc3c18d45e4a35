// Sixteen lanes as one value: the building blocks of docs/numerics.md for the kernels.
// SPDX-License-Identifier: Apache-2.0
//
// Written once with the compiler's vector extensions and compiled for each instruction set by
// kernels_<isa>.cc: a f32x16 is one zmm, two ymm or four q registers, and every operation below is
// the same IEEE operation in the same order on each, because -ffp-contract=off forbids fusing.
// Everything is `static`, so each object keeps its own copy and exports nothing from here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/limits.h"
#include "kernels/table.h"

namespace bitnet::kernels {

typedef float f32x16 __attribute__((vector_size(64)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef float f32x2 __attribute__((vector_size(8)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef int32_t i32x32 __attribute__((vector_size(128)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef _Float16 f16x16 __attribute__((vector_size(32)));
static_assert(sizeof(f32x16) == kLanes * sizeof(float));

static inline f32x16 splat(float value) { return f32x16{} + value; }

/// No alignment is asked for; where there is one the instruction is as fast.
static inline f32x16 load_lanes(const float* from) {
  f32x16 value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

/// Sixteen binary16, widened: exact.
static inline f32x16 load_lanes(const uint16_t* from) {
  f16x16 value;
  __builtin_memcpy(&value, from, sizeof value);
  return __builtin_convertvector(value, f32x16);
}

template <typename Vector, typename Element>
static inline void store_lanes(Element* to, const Vector& value) {
  __builtin_memcpy(to, &value, sizeof value);
}

static inline i32x16 bits_of_lanes(f32x16 value) { return __builtin_bit_cast(i32x16, value); }
static inline f32x16 lanes_of_bits(i32x16 bits) { return __builtin_bit_cast(f32x16, bits); }

/// Lane by lane: mask (all ones or zero) ? a : b.
static inline f32x16 select_lanes(i32x16 mask, f32x16 a, f32x16 b) {
  return lanes_of_bits((bits_of_lanes(a) & mask) | (bits_of_lanes(b) & ~mask));
}

/// Lanes 0, 2, 4, ... and lanes 1, 3, 5, ...
static inline i32x16 even_lanes(const i32x32& v) {
  return __builtin_shufflevector(v, v, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
static inline i32x16 odd_lanes(const i32x32& v) {
  return __builtin_shufflevector(v, v, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/// The lanes' own numbers, 0 ... 15.
static inline i32x16 lane_numbers() {
  return i32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

/// The tree over the sixteen lanes: step 8, 4, 2, 1.
static inline float sum_lanes(f32x16 acc) {
  const f32x8 eight = __builtin_shufflevector(acc, acc, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(acc, acc, 8, 9, 10, 11, 12, 13, 14, 15);
  const f32x4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                     __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  const f32x2 two =
      __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3);
  return two[0] + two[1];
}

static inline f32x16 max_lanes(f32x16 a, f32x16 b) { return select_lanes(a > b, a, b); }

/// out[j] = dot16(x, rows + j * stride) for j < kRows: as many sums in flight, each in its order.
template <uint32_t kRows, typename Element>
static inline void dot16_rows(const float* x, const Element* rows, size_t stride, uint32_t n,
                              float* out) {
  f32x16 acc[kRows] = {};
  for (uint32_t base = 0; base < n; base += kLanes) {
    const f32x16 lanes = load_lanes(x + base);
    for (uint32_t row = 0; row < kRows; ++row) {
      acc[row] = acc[row] + load_lanes(rows + row * stride + base) * lanes;
    }
  }
  for (uint32_t row = 0; row < kRows; ++row) out[row] = sum_lanes(acc[row]);
}

/// max|x|; n is a multiple of 16. Compared as integers, so that NaN counts as larger than every
/// number.
static inline float amax(const float* x, uint32_t n) {
  i32x16 largest = {};
  for (uint32_t base = 0; base < n; base += kLanes) {
    const i32x16 magnitude = bits_of_lanes(load_lanes(x + base)) & 0x7fffffff;
    largest = __builtin_elementwise_max(largest, magnitude);
  }
  return __builtin_bit_cast(float, __builtin_reduce_max(largest));
}

/// 1.5 * 2^23: adding it leaves the nearest integer (ties to even) in the low bits of the sum.
static constexpr float kRoundingMagic = 12582912.0f;
static constexpr int32_t kRoundingMagicBits = 0x4b400000;

/// rne(v) for |v| < 2^22.
static inline i32x16 rne(f32x16 v) {
  return bits_of_lanes(v + kRoundingMagic) - kRoundingMagicBits;
}

/// exp(x) of docs/numerics.md. Lanes below -86 are computed at -86 and then cleared; NaN stays.
static inline f32x16 exp_ordered(f32x16 x) {
  const f32x16 given = x;
  const i32x16 number = x == x;
  const i32x16 below = x < -86.0f;
  x = select_lanes(below, splat(-86.0f), x);
  x = select_lanes(x > 88.0f, splat(88.0f), x);
  const f32x16 t = x * 1.44269502f + kRoundingMagic;
  const f32x16 n = t - kRoundingMagic;
  f32x16 r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  f32x16 p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const f32x16 y = (p * (r * r) + r) + 1.0f;
  const i32x16 exponent = (bits_of_lanes(t) - kRoundingMagicBits) << 23;
  const f32x16 value = lanes_of_bits((bits_of_lanes(y) + exponent) & ~below);
  return select_lanes(number, value, given);
}

template <uint32_t kCount>
struct Count {
  static constexpr uint32_t value = kCount;
};

/// Calls use(Count<n>, row) for the rows [row, count): n = kCount as often as it goes, then its
/// half, ...
template <uint32_t kCount, typename Use>
static inline void each_rows(uint32_t row, uint32_t count, const Use& use) {
  for (; count - row >= kCount; row += kCount) use(Count<kCount>{}, row);
  if constexpr (kCount > 1) each_rows<kCount / 2>(row, count, use);
}

}  // namespace bitnet::kernels
