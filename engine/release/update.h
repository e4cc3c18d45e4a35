// Applying a release, going back to one, and replacing the trust root.
// SPDX-License-Identifier: Apache-2.0
//
// What may happen is decided in trust.h, manifest.h and here, in numbered steps; how it is made
// durable stands in store.h. Before each of these open_host has run; recover before install_root,
// and apply and roll_back do it themselves.
#pragma once

#include "release/store.h"

namespace bitnet::release {

/// Retention where the operator names none.
inline constexpr uint64_t kKeepSecondsDefault = 72 * 3600;

/// Finishes or undoes what an earlier run began, loads the installed root, lets the links follow
/// the state, and clears away folders that no state names. kRootChanged where trust.root does
/// not hold the statement that was installed.
Error recover(Host* host);

/// Installs the bundle that `paths` name. `signature` is the path of update.sig, `order` that of a
/// rollback order or null. Whatever is refused or fails, the release that ran before runs.
/// Refusals: kRootMissing, those of trust.h and manifest.h, kProduct, kDowngrade, kOrder,
/// kNoBundle, kBundleDigest, kParts, kArchive*, kReleaseFile, kSelftest, kReleasesFull. What has no
/// line of its own in the log is counted as a refusal, here and in roll_back. kSelftestHost.
Error apply(Host* host, std::span<const char* const> paths, const char* signature,
            const char* order);

/// Goes back to the release that was replaced last, if it was so at most `keep_s` ago and is not
/// below the floor, or to the one that `order` names. What ran before is kept as evidence.
/// kNothingRetained, kDowngrade, kOrder, kFile*, kSelftest, kSelftestHost.
Error roll_back(Host* host, uint64_t keep_s, const char* order);

/// Installs a trust root: the first, and one in place of a lost one, by the SHA-384 of its
/// statement; later ones as successors of the installed one (`sha384` may be null). kRootMissing or
/// kRootChanged where a digest is needed, kRootDigest, trust.h.
Error install_root(Host* host, const char* path, const Digest* sha384);

/// Follows the log from its first line to what the state counts. kUpdateLog (where = line).
Error check_log(Host* host);

}  // namespace bitnet::release
