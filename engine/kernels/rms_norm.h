// Root-mean-square normalisation.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `RmsNorm` in table.h; definition: docs/numerics.md, step 2.1. Ordered float.
// Padding in, padding out: x and w are +0 at and after `n`, so y is too.
#pragma once

#include <type_traits>

#include "kernels/table.h"

namespace bitnet::kernels {

using RmsNormFunction = std::remove_pointer_t<RmsNorm>;
RmsNormFunction rms_norm_ref;
RmsNormFunction rms_norm_avx2;
RmsNormFunction rms_norm_avx512vnni;
RmsNormFunction rms_norm_neon;

}  // namespace bitnet::kernels
