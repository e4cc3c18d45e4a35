// Rotary position embedding: the angles of a position and the rotation of a head.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `rope` and `rope_angles` in table.h; definition: docs/numerics.md, `sincos`, step 2.4.
// A head has any length, so `rope` is the only operation with a tail.
// `rope`: y does not overlap x. `rope_angles`: position * inv_freq[i] is below 2^20.
#pragma once

#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kDoubleLanes = 8;
typedef double f64x8 __attribute__((vector_size(64)));
typedef int64_t i64x8 __attribute__((vector_size(64)));

inline f64x8 negate_where(i64x8 sign_bit, f64x8 value) {
  return __builtin_bit_cast(f64x8, __builtin_bit_cast(i64x8, value) ^ sign_bit);
}

inline f64x8 select_where(i64x8 mask, f64x8 a, f64x8 b) {
  return __builtin_bit_cast(
      f64x8, (__builtin_bit_cast(i64x8, a) & mask) | (__builtin_bit_cast(i64x8, b) & ~mask));
}

/// sincos(a) of docs/numerics.md for eight angles, |a| < 2^20. The quadrant is read from the low
/// bits of t, where the magic constant has put the integer k: no conversion is needed.
inline void sincos_ordered(f32x8 a, f32x8& sin, f32x8& cos) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  const f64x8 d = __builtin_convertvector(a, f64x8);
  const f64x8 t = d * 0.63661977236758134 + kMagic;
  const f64x8 k = t - kMagic;
  f64x8 r = d - k * 1.57079632673412561417;
  r = r - k * 6.07710050650619224932e-11;
  const f64x8 z = r * r;
  f64x8 ps = f64x8{} + 1.58969099521155010221e-10;
  ps = ps * z + -2.50507602534068634195e-08;
  ps = ps * z + 2.75573137070700676789e-06;
  ps = ps * z + -1.98412698298579493134e-04;
  ps = ps * z + 8.33333333332248946124e-03;
  ps = ps * z + -1.66666666666666324348e-01;
  const f64x8 s = r + (r * z) * ps;
  f64x8 pc = f64x8{} + -1.13596475577881948265e-11;
  pc = pc * z + 2.08757232129817482790e-09;
  pc = pc * z + -2.75573143513906633035e-07;
  pc = pc * z + 2.48015872894767294178e-05;
  pc = pc * z + -1.38888888888741095749e-03;
  pc = pc * z + 4.16666666666666019037e-02;
  const f64x8 c = (1.0 - 0.5 * z) + (z * z) * pc;
  const i64x8 quadrant = __builtin_bit_cast(i64x8, t) & 3;
  const i64x8 odd = -(quadrant & 1);
  const i64x8 sin_sign = (quadrant & 2) << 62;        // quadrants 2 and 3
  const i64x8 cos_sign = ((quadrant + 1) & 2) << 62;  // quadrants 1 and 2
  sin = __builtin_convertvector(negate_where(sin_sign, select_where(odd, c, s)), f32x8);
  cos = __builtin_convertvector(negate_where(cos_sign, select_where(odd, s, c)), f32x8);
}

void rope(const float* x, const float* sin, const float* cos, uint32_t head_dim, float* y) {
  const uint32_t half = head_dim / 2;
  uint32_t i = 0;
  for (; half - i >= kLanes; i += kLanes) {
    const f32x16 first = load_lanes(x + i);
    const f32x16 second = load_lanes(x + i + half);
    const f32x16 sn = load_lanes(sin + i);
    const f32x16 cs = load_lanes(cos + i);
    store_lanes(y + i, first * cs - second * sn);
    store_lanes(y + i + half, second * cs + first * sn);
  }
  for (; i < half; ++i) {
    y[i] = x[i] * cos[i] - x[i + half] * sin[i];
    y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
  }
  for (i = head_dim; i % kLanes != 0; ++i) y[i] = 0.0f;
}

void rope_angles(uint32_t position, const float* inv_freq, uint32_t n_padded, float* sin,
                 float* cos) {
  for (uint32_t base = 0; base < n_padded; base += kDoubleLanes) {
    f32x8 frequency;
    f32x8 sn;
    f32x8 cs;
    __builtin_memcpy(&frequency, inv_freq + base, sizeof frequency);
    sincos_ordered(static_cast<float>(position) * frequency, sn, cs);
    store_lanes(sin + base, sn);
    store_lanes(cos + base, cs);
  }
}

}  // namespace
}  // namespace bitnet::kernels
