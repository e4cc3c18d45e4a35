// All float operations for one instruction set: two 256-bit registers to sixteen lanes.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx2 -mf16c -Wno-psabi -fno-math-errno. Never -mfma: nothing here may be fused. psabi
// warns that sixteen lanes passed by value depend on the flags; no such function leaves this
// object.
// -fno-math-errno: else the compiler adds a call of sqrtf for negative arguments.
#define KERNEL_NAME(operation) operation##_avx2

#include "kernels/attention_simd.h"
#include "kernels/cache_rows_simd.h"
#include "kernels/elementwise_simd.h"
#include "kernels/f32_matmul_simd.h"
#include "kernels/quantize_simd.h"
#include "kernels/rms_norm_simd.h"
#include "kernels/rope_simd.h"
