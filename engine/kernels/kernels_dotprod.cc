// All operations for AArch64 with sdot.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mcpu=generic+dotprod -fno-math-errno.
// -fno-math-errno: else the compiler adds a call of sqrtf for negative arguments.
#define KERNEL_SET kernels_dotprod

#include "kernels/kernels_simd.h"
