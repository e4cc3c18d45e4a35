// All operations for one instruction set; included by kernels_<isa>.cc, which names the function
// (KERNEL_SET).
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_int8_simd.h"
#include "kernels/attention_simd.h"
#include "kernels/cache_rows_simd.h"
#include "kernels/elementwise_simd.h"
#include "kernels/f32_matmul_simd.h"
#include "kernels/int8_rows_simd.h"
#include "kernels/quantize_simd.h"
#include "kernels/rms_norm_simd.h"
#include "kernels/rope_simd.h"
#include "kernels/ternary_matmul_simd.h"

namespace bitnet::kernels {

void KERNEL_SET(KernelTable& table) {
  table.ternary_matmul = ternary_matmul;
  table.int8_high = int8_high;
  table.int8_low = int8_low;
  table.f32_matmul = f32_matmul;
  table.rms_norm = rms_norm;
  table.quantize_int8 = quantize_int8;
  table.quantize_split = quantize_split;
  table.relu2_gate = relu2_gate;
  table.silu_gate = silu_gate;
  table.add_in_place = add_in_place;
  table.rope = rope;
  table.rope_angles = rope_angles;
  table.attention[0] = attention<float>;
  table.attention[1] = attention<uint16_t>;
  table.attention[2] = attention_int8;
  table.exp_sum = exp_sum;
  table.store_f16 = store_f16;
  table.store_int8 = store_int8;
}

}  // namespace bitnet::kernels
