// Which kernel runs where: the tables of this architecture, and what this processor can run.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/table.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif !defined(__aarch64__)
#error "kernels exist for x86_64 and aarch64"
#endif

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/cache_rows.h"
#include "kernels/elementwise.h"
#include "kernels/f32_matmul.h"
#include "kernels/int8_matmul.h"
#include "kernels/quantize.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/ternary_matmul.h"

namespace bitnet::kernels {
namespace {

constexpr KernelTable kReference = {
    .name = "ref",
    .ternary_matmul = ternary_matmul_ref,
    .int8_matmul = int8_matmul_ref,
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
  table.int8_matmul = int8_matmul_avx2;
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
  table.int8_matmul = int8_matmul_avx512vnni;
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

// Register states that the operating system saves, in XCR0 (Intel SDM vol. 1, section 13.3): SSE
// and AVX for ymm; also the mask registers and both halves of the zmm state for AVX-512.
constexpr uint64_t kYmmState = 0x06;
constexpr uint64_t kZmmState = 0xe6;

// Bits of CPUID leaf 1 and leaf 7, subleaf 0 (Intel SDM vol. 2, CPUID).
constexpr uint32_t kLeaf1EcxOsxsave = 1u << 27;
constexpr uint32_t kLeaf1EcxAvx = 1u << 28;
constexpr uint32_t kLeaf1EcxF16c = 1u << 29;
constexpr uint32_t kLeaf7EbxAvx2 = 1u << 5;
constexpr uint32_t kLeaf7EbxAvx512 = 1u << 16 | 1u << 30 | 1u << 31;  // f, bw, vl
constexpr uint32_t kLeaf7EcxAvx512Vnni = 1u << 11;

/// XCR0. Only where CPUID says OSXSAVE.
uint64_t enabled_states() {
  uint32_t low;
  uint32_t high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

struct Features {
  bool avx2 = false;
  bool avx512vnni = false;
};

Features detect_features() {
  Features features;
  uint32_t eax, ebx, ecx, edx;
  constexpr uint32_t kLeaf1Needed = kLeaf1EcxOsxsave | kLeaf1EcxAvx | kLeaf1EcxF16c;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return features;
  if ((ecx & kLeaf1Needed) != kLeaf1Needed) return features;
  const uint64_t states = enabled_states();
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return features;
  features.avx2 = (states & kYmmState) == kYmmState && (ebx & kLeaf7EbxAvx2) != 0;
  features.avx512vnni = features.avx2 && (states & kZmmState) == kZmmState &&
                        (ebx & kLeaf7EbxAvx512) == kLeaf7EbxAvx512 &&
                        (ecx & kLeaf7EcxAvx512Vnni) != 0;
  return features;
}

bool ref_available(uint64_t) { return true; }
bool avx2_available(uint64_t) { return detect_features().avx2; }
bool avx512vnni_available(uint64_t) { return detect_features().avx512vnni; }

#else

void set_neon(KernelTable& table) {
  table.ternary_matmul = ternary_matmul_neon;
  table.int8_matmul = int8_matmul_neon;
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
  table.int8_matmul = int8_matmul_dotprod;
}

// Bits of AT_HWCAP (Linux, arch/arm64/include/uapi/asm/hwcap.h).
constexpr uint64_t kHwcapAsimd = 1u << 1;
constexpr uint64_t kHwcapAsimdDp = 1u << 20;

bool ref_available(uint64_t) { return true; }
bool neon_available(uint64_t hwcap) { return (hwcap & kHwcapAsimd) != 0; }
bool dotprod_available(uint64_t hwcap) {
  return neon_available(hwcap) && (hwcap & kHwcapAsimdDp) != 0;
}

#endif

/// One instruction set: how it changes the table of the level below it, and when it can run.
struct Level {
  const char* name;
  void (*set)(KernelTable& table);
  bool (*available)(uint64_t hwcap);
};

void set_ref(KernelTable& table) { table = kReference; }

constexpr Level kLevels[] = {
    {"ref", set_ref, ref_available},
#if defined(__x86_64__)
    {"avx2", set_avx2, avx2_available},
    {"avx512vnni", set_avx512vnni, avx512vnni_available},
#else
    {"neon", set_neon, neon_available},
    {"dotprod", set_dotprod, dotprod_available},
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
  return kLevels[index].available(hwcap);
}

KernelTable kernel_table(uint32_t index) {
  ENGINE_CHECK(index < kLevelCount);
  KernelTable table;
  for (uint32_t level = 0; level <= index; ++level) kLevels[level].set(table);
  table.name = kLevels[index].name;
  return table;
}

}  // namespace bitnet::kernels
