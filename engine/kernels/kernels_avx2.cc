// All operations with AVX2: two 256-bit registers to sixteen lanes.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx2 -mf16c -Wno-psabi -fno-math-errno. Never -mfma: nothing here may be fused. psabi
// warns that sixteen lanes passed by value depend on the flags; no such function leaves this
// object.
// -fno-math-errno: else the compiler adds a call of sqrtf for negative arguments.
#define KERNEL_SET kernels_avx2

#include "kernels/kernels_simd.h"
