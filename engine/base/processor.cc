// SPDX-License-Identifier: Apache-2.0
#include "base/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bitnet {

#if defined(__x86_64__)
namespace {

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

}  // namespace

Processor detect_processor(uint64_t) {
  Processor found;
  uint32_t eax, ebx, ecx, edx;
  constexpr uint32_t kLeaf1Needed = kLeaf1EcxOsxsave | kLeaf1EcxAvx | kLeaf1EcxF16c;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return found;
  if ((ecx & kLeaf1Needed) != kLeaf1Needed) return found;
  const uint64_t states = enabled_states();
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return found;
  found.avx2 = (states & kYmmState) == kYmmState && (ebx & kLeaf7EbxAvx2) != 0;
  found.avx512 =
      found.avx2 && (states & kZmmState) == kZmmState && (ebx & kLeaf7EbxAvx512) == kLeaf7EbxAvx512;
  found.avx512vnni = found.avx512 && (ecx & kLeaf7EcxAvx512Vnni) != 0;
  return found;
}

#else

// Bits of AT_HWCAP and AT_HWCAP2 (Linux, arch/arm64/include/uapi/asm/hwcap.h).
Processor detect_processor(uint64_t hwcap) {
  Processor found;
  found.neon = (hwcap & 1u << 1) != 0;
  found.sha3 = found.neon && (hwcap & 1u << 17) != 0;
  found.dotprod = found.neon && (hwcap & 1u << 20) != 0;
  found.i8mm = found.dotprod && (hwcap >> 32 & 1u << 13) != 0;
  return found;
}

#endif

}  // namespace bitnet
