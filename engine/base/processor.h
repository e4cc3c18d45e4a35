// What this processor can execute, as far as any part of the engine asks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace bitnet {

/// Instruction sets that the processor has and whose registers the operating system saves.
struct Processor {
  bool ref = true;          ///< what every processor of the architecture has
  bool avx2 = false;        ///< with F16C
  bool avx512 = false;      ///< F, BW and VL, and avx2
  bool avx512vnni = false;  ///< with avx512
  bool neon = false;
  bool dotprod = false;
  bool i8mm = false;  ///< smmla, with dotprod
  bool sha3 = false;  ///< eor3, rax1, xar, bcax
};

/// `hwcap` is AT_HWCAP of the program in the lower and AT_HWCAP2 in the upper 32 bits, which tell
/// on AArch64; x86-64 is asked with CPUID.
Processor detect_processor(uint64_t hwcap);

}  // namespace bitnet
