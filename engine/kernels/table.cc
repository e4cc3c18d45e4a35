// Which kernel runs where: the tables of this architecture, and what this processor can run.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/table.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "kernels exist for x86_64 and aarch64"
#endif

#include "base/check.h"
#include "base/processor.h"
#include "kernels/attention.h"
#include "kernels/cache_rows.h"
#include "kernels/elementwise.h"
#include "kernels/f32_matmul.h"
#include "kernels/int8_rows.h"
#include "kernels/quantize.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/ternary_matmul.h"

namespace bitnet::kernels {
namespace {

constexpr KernelTable kReference = {
    .name = "ref",
    .ternary_matmul = ternary_matmul_ref,
    .int8_high = int8_high_ref,
    .int8_logits = int8_logits_ref,
    .f32_matmul = f32_matmul_ref,
    .rms_norm = rms_norm_ref,
    .quantize_int8 = quantize_int8_ref,
    .quantize_split = quantize_split_ref,
    .relu2_gate = relu2_gate_ref,
    .silu_gate = silu_gate_ref,
    .add_in_place = add_in_place_ref,
    .rope = rope_ref,
    .rope_angles = rope_angles_ref,
    .attention = attention_ref,
    .exp_sum = exp_sum_ref,
    .store_f16 = store_f16_ref,
    .store_int8 = store_int8_ref,
    .attention_f16 = attention_f16_ref,
    .attention_int8 = attention_int8_ref,
};

#if defined(__x86_64__)

void set_avx2(KernelTable& table) {
  table.ternary_matmul = ternary_matmul_avx2;
  table.int8_high = int8_high_avx2;
  table.int8_logits = int8_logits_avx2;
  table.f32_matmul = f32_matmul_avx2;
  table.rms_norm = rms_norm_avx2;
  table.quantize_int8 = quantize_int8_avx2;
  table.quantize_split = quantize_split_avx2;
  table.relu2_gate = relu2_gate_avx2;
  table.silu_gate = silu_gate_avx2;
  table.add_in_place = add_in_place_avx2;
  table.rope = rope_avx2;
  table.rope_angles = rope_angles_avx2;
  table.attention = attention_avx2;
  table.exp_sum = exp_sum_avx2;
  table.store_f16 = store_f16_avx2;
  table.store_int8 = store_int8_avx2;
  table.attention_f16 = attention_f16_avx2;
  table.attention_int8 = attention_int8_avx2;
}

void set_avx512vnni(KernelTable& table) {
  table.ternary_matmul = ternary_matmul_avx512vnni;
  table.int8_high = int8_high_avx512vnni;
  table.int8_logits = int8_logits_avx512vnni;
  table.f32_matmul = f32_matmul_avx512vnni;
  table.rms_norm = rms_norm_avx512vnni;
  table.quantize_int8 = quantize_int8_avx512vnni;
  table.quantize_split = quantize_split_avx512vnni;
  table.relu2_gate = relu2_gate_avx512vnni;
  table.silu_gate = silu_gate_avx512vnni;
  table.add_in_place = add_in_place_avx512vnni;
  table.rope = rope_avx512vnni;
  table.rope_angles = rope_angles_avx512vnni;
  table.attention = attention_avx512vnni;
  table.exp_sum = exp_sum_avx512vnni;
  table.store_f16 = store_f16_avx512vnni;
  table.store_int8 = store_int8_avx512vnni;
  table.attention_f16 = attention_f16_avx512vnni;
  table.attention_int8 = attention_int8_avx512vnni;
}

#else

void set_neon(KernelTable& table) {
  table.ternary_matmul = ternary_matmul_neon;
  table.int8_high = int8_high_neon;
  table.int8_logits = int8_logits_neon;
  table.f32_matmul = f32_matmul_neon;
  table.rms_norm = rms_norm_neon;
  table.quantize_int8 = quantize_int8_neon;
  table.quantize_split = quantize_split_neon;
  table.relu2_gate = relu2_gate_neon;
  table.silu_gate = silu_gate_neon;
  table.add_in_place = add_in_place_neon;
  table.rope = rope_neon;
  table.rope_angles = rope_angles_neon;
  table.attention = attention_neon;
  table.exp_sum = exp_sum_neon;
  table.store_f16 = store_f16_neon;
  table.store_int8 = store_int8_neon;
  table.attention_f16 = attention_f16_neon;
  table.attention_int8 = attention_int8_neon;
}

void set_dotprod(KernelTable& table) {
  table.ternary_matmul = ternary_matmul_dotprod;
  table.int8_high = int8_high_dotprod;
  table.int8_logits = int8_logits_dotprod;
}

void set_i8mm(KernelTable& table) { table.ternary_matmul = ternary_matmul_i8mm; }

#endif

/// One instruction set: how it changes the table of the level below it, and when it can run.
struct Level {
  const char* name;
  void (*set)(KernelTable& table);
  bool Processor::* available;  ///< null: everywhere
};

void set_ref(KernelTable& table) { table = kReference; }

constexpr Level kLevels[] = {
    {"ref", set_ref, nullptr},
#if defined(__x86_64__)
    {"avx2", set_avx2, &Processor::avx2},
    {"avx512vnni", set_avx512vnni, &Processor::avx512vnni},
#else
    {"neon", set_neon, &Processor::neon},
    {"dotprod", set_dotprod, &Processor::dotprod},
    {"i8mm", set_i8mm, &Processor::i8mm},
#endif
};
constexpr uint32_t kLevelCount = sizeof kLevels / sizeof kLevels[0];
static_assert(kLevelCount <= kKernelTableCountMax);

}  // namespace

uint32_t kernel_table_count() { return kLevelCount; }

const char* kernel_table_name(uint32_t index) {
  ENGINE_CHECK(index < kLevelCount);
  return kLevels[index].name;
}

bool kernel_table_available(uint32_t index, uint64_t hwcap) {
  ENGINE_CHECK(index < kLevelCount);
  const auto available = kLevels[index].available;
  return available == nullptr || detect_processor(hwcap).*available;
}

KernelTable kernel_table(uint32_t index) {
  ENGINE_CHECK(index < kLevelCount);
  KernelTable table;
  for (uint32_t level = 0; level <= index; ++level) kLevels[level].set(table);
  table.name = kLevels[index].name;
  return table;
}

}  // namespace bitnet::kernels
