// All operations with AVX-512: one 512-bit register to sixteen lanes.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mf16c -fno-math-errno. AVX-512 brings fused
// multiply-add along; -ffp-contract=off keeps the compiler from using it (a test reads the
// disassembly).
// -fno-math-errno: else the compiler adds a call of sqrtf for negative arguments.
#define KERNEL_SET kernels_avx512vnni

#include "kernels/kernels_simd.h"
