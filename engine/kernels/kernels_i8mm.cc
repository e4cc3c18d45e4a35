// ternary_matmul with smmla. The other operations are those of dotprod.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mcpu=generic+dotprod+i8mm.
#include "kernels/ternary_matmul_simd.h"

namespace bitnet::kernels {

void kernels_i8mm(KernelTable& table) { table.ternary_matmul = ternary_matmul; }

}  // namespace bitnet::kernels
