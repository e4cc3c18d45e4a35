// f32 rows times f32 vectors: the output head of models whose head is kept in float.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `F32Matmul` in table.h; definition: docs/numerics.md, `dot16` and step 4;
// layout of the weights: docs/formats/model.md, kind 4. Ordered float: sixteen lanes and a tree.
// Each y[t][r] depends on row r and token t alone; other rows of y are not touched.
#pragma once

#include <type_traits>

#include "kernels/table.h"

namespace bitnet::kernels {

using F32MatmulFunction = std::remove_pointer_t<F32Matmul>;
F32MatmulFunction f32_matmul_ref;
F32MatmulFunction f32_matmul_avx2;
F32MatmulFunction f32_matmul_avx512vnni;
F32MatmulFunction f32_matmul_neon;

}  // namespace bitnet::kernels
