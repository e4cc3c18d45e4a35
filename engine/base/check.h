// ENGINE_CHECK stops the program on a bug; it stays on in release builds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

/// For conditions that only a defect of this program can break; never for bad input.
#define ENGINE_CHECK(condition) (__builtin_expect(!(condition), 0) ? __builtin_trap() : (void)0)
