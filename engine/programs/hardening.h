// The state of the lock-down as a table, or as JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/lockdown.h"

namespace bitnet::programs {

/// Writes the state of every layer to standard output: `on`, `missing` (stops a run) or `accepted`
/// (missing, and named under `accept_missing`). Returns the exit code: 0 where a run would start,
/// else that of kProtectionRefused; of kWriteFailed if standard output fails.
int print_hardening(const runtime::Lockdown& lockdown, bool json);

}  // namespace bitnet::programs
