// All float operations for AArch64 with sdot, which attention over int8 uses.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mcpu=generic+dotprod -fno-math-errno.
// -fno-math-errno: else the compiler adds a call of sqrtf for negative arguments.
#define KERNEL_SET float_dotprod

#include "kernels/float_simd.h"
