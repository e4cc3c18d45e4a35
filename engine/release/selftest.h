// Known answers of everything that trust rests on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/status.h"

namespace bitnet::release {

/// SHA-384, SHA3-384, Ed25519 and ML-DSA-87 must give what others have published, and refuse the
/// same signatures with one bit changed. kSelftestFailed with the algorithm's name. About 1 ms.
Error run_selftest();

}  // namespace bitnet::release
