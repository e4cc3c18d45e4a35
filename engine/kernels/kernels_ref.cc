// All operations for every processor of the architecture: SSE2, or NEON.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -fno-math-errno; on x86-64 also -Wno-psabi and -Os, for only old processors run it there.
// psabi warns that sixteen lanes passed by value depend on the flags; no such function leaves this
// object. -fno-math-errno: else the compiler adds a call of sqrtf for negative arguments.
#define KERNEL_SET kernels_ref

#include "kernels/kernels_simd.h"
