// All float operations for one instruction set: four 128-bit registers to sixteen lanes.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -fno-math-errno (ASIMD is part of armv8-a).
// -fno-math-errno: else the compiler adds a call of sqrtf for negative arguments.
#define KERNEL_NAME(operation) operation##_neon

#include "kernels/attention_simd.h"
#include "kernels/cache_rows_simd.h"
#include "kernels/elementwise_simd.h"
#include "kernels/f32_matmul_simd.h"
#include "kernels/quantize_simd.h"
#include "kernels/rms_norm_simd.h"
#include "kernels/rope_simd.h"
