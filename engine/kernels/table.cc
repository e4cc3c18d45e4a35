// Which kernel runs where: the tables of this architecture, and what this processor can run.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/table.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "kernels exist for x86_64 and aarch64"
#endif

#include "kernels/int8_rows.h"
#include "kernels/ternary_matmul.h"

namespace bitnet::kernels {

/// Each sets all float operations of a table (float_simd.h).
void float_ref(KernelTable& table);
void float_avx2(KernelTable& table);
void float_avx512vnni(KernelTable& table);
void float_dotprod(KernelTable& table);

namespace {

constexpr KernelLevel kLevels[] = {
    {"ref", &Processor::ref, float_ref, ternary_matmul_ref, int8_high_ref, int8_low_ref},
#if defined(__x86_64__)
    {"avx2", &Processor::avx2, float_avx2, ternary_matmul_avx2, int8_high_avx2, int8_low_avx2},
    {"avx512vnni", &Processor::avx512vnni, float_avx512vnni, ternary_matmul_avx512vnni,
     int8_high_avx512vnni, int8_low_avx512vnni},
#else
    {"neon", &Processor::neon, float_ref, ternary_matmul_neon, int8_high_neon, int8_low_neon},
    {"dotprod", &Processor::dotprod, float_dotprod, ternary_matmul_dotprod, int8_high_dotprod,
     int8_low_dotprod},
    {"i8mm", &Processor::i8mm, float_dotprod, ternary_matmul_i8mm, int8_high_dotprod,
     int8_low_dotprod},
#endif
};
static_assert(std::size(kLevels) <= kKernelLevelsMax);

}  // namespace

std::span<const KernelLevel> kernel_levels() { return kLevels; }

KernelTable KernelLevel::table() const {
  KernelTable complete;
  set_float(complete);
  complete.name = name;
  complete.ternary_matmul = ternary_matmul;
  complete.int8_high = int8_high;
  complete.int8_low = int8_low;
  return complete;
}

}  // namespace bitnet::kernels
