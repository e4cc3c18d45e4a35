// Applying a release, going back to one, and replacing the trust root.
// SPDX-License-Identifier: Apache-2.0
//
// What may happen is decided in trust.h, manifest.h and here, in numbered steps; how it is made
// durable stands in store.h. Before each of these, open_host and recover have run.
#pragma once

#include "release/store.h"

namespace bitnet::release {

/// Retention where the operator names none.
inline constexpr uint64_t kKeepSecondsDefault = 72 * 3600;

/// Finishes or undoes what an earlier run began, loads the installed root, lets the links follow
/// the state, and clears away folders that no state names. kRootChanged where trust.root is not the
/// file that was installed.
Error recover(Host* host);

/// Installs the bundle that `paths` name. `signature` is the path of update.sig, `order` that of a
/// rollback order or null. Whatever is refused or fails, the release that ran before runs.
/// Refusals: kRootMissing, those of trust.h and manifest.h, kProduct, kDowngrade, kOrder,
/// kBundleDigest, kParts, kArchive*, kReleaseFile, kSelftest, kReleasesFull.
Error apply(Host* host, std::span<const char* const> paths, const char* signature,
            const char* order);

/// Goes back to the release that was replaced last, if it was so at most `keep_s` ago and is not
/// below the floor, or to the one that `order` names. What ran before is kept as evidence.
/// kNothingRetained, kDowngrade, kOrder, kReleaseFile, kSelftest.
Error roll_back(Host* host, uint64_t keep_s, const char* order);

/// Installs a trust root: the first by the SHA-384 of its file, later ones as successors of the
/// installed one (`sha384` is null). kRootMissing where a digest is needed, kRootDigest, trust.h.
Error install_root(Host* host, const char* path, const Digest* sha384);

/// Follows the log from its first line to what the state counts. kUpdateLog (where = line).
Error check_log(Host* host);

}  // namespace bitnet::release
