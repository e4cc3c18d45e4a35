// Where signatures lie, and who has signed, as text and as JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "release/trust.h"

namespace bitnet::programs {

/// For each role that was looked at: how many are needed, who has signed, and what did not count.
/// As JSON, who has signed: `"signers": [{"role": …, "name": …, "custodian": …, "key": …}, …]`.
void tell_signers(int descriptor, const release::TrustRoot& root,
                  const release::Approvals& approvals, bool json);

/// Puts together the path of `update.sig` beside a file, or in a folder. kOptionValue where it is
/// longer than `place`.
Error find_signature(const char* path, std::span<uint8_t> place, const char** found);

}  // namespace bitnet::programs
