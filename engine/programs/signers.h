// Who has signed, as text and as JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "release/trust.h"

namespace bitnet::programs {

/// For each role that was looked at: how many are needed, who has signed, and what did not count.
void tell_signers(int descriptor, const release::TrustRoot& root,
                  const release::Approvals& approvals);

/// `"signers": [{"role": …, "name": …, "custodian": …, "key": …}, …]`.
void tell_signers_json(int descriptor, const release::TrustRoot& root,
                       const release::Approvals& approvals);

}  // namespace bitnet::programs
