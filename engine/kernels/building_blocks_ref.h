// The building blocks of docs/numerics.md as plain scalar code, for the `_ref` files alone.
// SPDX-License-Identifier: Apache-2.0
//
// Written to be read beside that page: the same names, the same order of operations. Everything is
// `static`, so each object keeps its own copy and the linker never chooses between two.
#pragma once

#include <cstdint>

#include "base/limits.h"

namespace bitnet::kernels {

static inline uint32_t bits_of(float value) { return __builtin_bit_cast(uint32_t, value); }
static inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// The tree over the sixteen lanes: step 8, 4, 2, 1.
static inline float sum_lanes(float (&acc)[kLanes]) {
  for (uint32_t step = kLanes / 2; step >= 1; step /= 2) {
    for (uint32_t lane = 0; lane < step; ++lane) acc[lane] = acc[lane] + acc[lane + step];
  }
  return acc[0];
}

/// What a stored element stands for, exactly: itself, a binary16, an int8 code before its scale.
static inline float widen(float value) { return value; }
static inline float widen(int8_t code) { return static_cast<float>(code); }
static inline float widen(uint16_t half) {
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

/// dot16(x, y); n is a multiple of 16. Element i of y stands at i * stride.
template <typename Element>
static inline float dot16(const float* x, const Element* y, uint32_t n, uint32_t stride = 1) {
  float acc[kLanes] = {};
  for (uint32_t base = 0; base < n; base += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      acc[lane] = acc[lane] + x[base + lane] * widen(y[(base + lane) * stride]);
    }
  }
  return sum_lanes(acc);
}

/// sum16(x); n is a multiple of 16.
static inline float sum16(const float* x, uint32_t n) {
  float acc[kLanes] = {};
  for (uint32_t base = 0; base < n; base += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) acc[lane] = acc[lane] + x[base + lane];
  }
  return sum_lanes(acc);
}

/// max|x|, exact in any order. Compared as integers, so that NaN counts as larger than every
/// number.
static inline float amax(const float* x, uint32_t n) {
  uint32_t largest = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
    if (magnitude > largest) largest = magnitude;
  }
  return float_of(largest);
}

/// 1.5 * 2^23: adding it leaves the nearest integer (ties to even) in the low bits of the sum.
static constexpr float kRoundingMagic = 12582912.0f;

/// rne(v) for |v| < 2^22.
static inline int32_t rne(float v) {
  return static_cast<int32_t>(bits_of(v + kRoundingMagic) - bits_of(kRoundingMagic));
}

/// exp(x) of docs/numerics.md. n is in [-124, 127], so the exponent field neither wraps nor reaches
/// infinity.
static inline float exp_ordered(float x) {
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
static inline SinCos sincos_ordered(float a) {
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

}  // namespace bitnet::kernels
