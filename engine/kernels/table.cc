// Which kernel runs where: the tables of this architecture, and what this processor can run.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/table.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "kernels exist for x86_64 and aarch64"
#endif

#include "base/check.h"
#include "base/processor.h"
#include "kernels/int8_rows.h"
#include "kernels/ternary_matmul.h"

namespace bitnet::kernels {

/// Each sets all float operations of a table (float_simd.h).
void float_ref(KernelTable& table);
void float_avx2(KernelTable& table);
void float_avx512vnni(KernelTable& table);
void float_dotprod(KernelTable& table);

namespace {

/// One instruction set: its operations, and when it can run.
struct Level {
  const char* name;
  void (*set_float)(KernelTable& table);
  TernaryMatmul ternary_matmul;
  Int8High int8_high;
  Int8Low int8_low;
  bool Processor::* available;  ///< null: everywhere
};

constexpr Level kLevels[] = {
    {"ref", float_ref, ternary_matmul_ref, int8_high_ref, int8_low_ref, nullptr},
#if defined(__x86_64__)
    {"avx2", float_avx2, ternary_matmul_avx2, int8_high_avx2, int8_low_avx2, &Processor::avx2},
    {"avx512vnni", float_avx512vnni, ternary_matmul_avx512vnni, int8_high_avx512vnni,
     int8_low_avx512vnni, &Processor::avx512vnni},
#else
    {"neon", float_ref, ternary_matmul_neon, int8_high_neon, int8_low_neon, &Processor::neon},
    {"dotprod", float_dotprod, ternary_matmul_dotprod, int8_high_dotprod, int8_low_dotprod,
     &Processor::dotprod},
    {"i8mm", float_dotprod, ternary_matmul_i8mm, int8_high_dotprod, int8_low_dotprod,
     &Processor::i8mm},
#endif
};
constexpr uint32_t kLevelCount = sizeof kLevels / sizeof kLevels[0];
static_assert(kLevelCount <= kKernelTableCountMax);

const Level& level(uint32_t index) {
  ENGINE_CHECK(index < kLevelCount);
  return kLevels[index];
}

}  // namespace

uint32_t kernel_table_count() { return kLevelCount; }

const char* kernel_table_name(uint32_t index) { return level(index).name; }

bool kernel_table_available(uint32_t index, uint64_t hwcap) {
  const auto available = level(index).available;
  return available == nullptr || detect_processor(hwcap).*available;
}

KernelTable kernel_table(uint32_t index) {
  const Level& found = level(index);
  KernelTable table;
  found.set_float(table);
  table.name = found.name;
  table.ternary_matmul = found.ternary_matmul;
  table.int8_high = found.int8_high;
  table.int8_low = found.int8_low;
  return table;
}

}  // namespace bitnet::kernels
