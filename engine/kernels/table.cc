// Which kernel runs where: the tables of this architecture, and what this processor can run.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/table.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "kernels exist for x86_64 and aarch64"
#endif

namespace bitnet::kernels {

/// Each sets the operations of a table that it has (kernels_simd.h).
void kernels_ref(KernelTable& table);
void kernels_avx2(KernelTable& table);
void kernels_avx512vnni(KernelTable& table);
void kernels_dotprod(KernelTable& table);
void kernels_i8mm(KernelTable& table);

namespace {

constexpr KernelLevel kLevels[] = {
    {"ref", &Processor::ref, kernels_ref},
#if defined(__x86_64__)
    {"avx2", &Processor::avx2, kernels_avx2},
    {"avx512vnni", &Processor::avx512vnni, kernels_avx512vnni},
#else
    {"neon", &Processor::neon, kernels_ref},
    {"dotprod", &Processor::dotprod, kernels_dotprod},
    {"i8mm", &Processor::i8mm, kernels_i8mm},
#endif
};
static_assert(std::size(kLevels) <= kKernelLevelsMax);

}  // namespace

std::span<const KernelLevel> kernel_levels() { return kLevels; }

KernelTable KernelLevel::table() const {
  KernelTable complete;
  for (const KernelLevel* level = kLevels; level <= this; ++level) level->set(complete);
  complete.name = name;
  return complete;
}

}  // namespace bitnet::kernels
