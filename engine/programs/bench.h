// `bitnet-infer --bench`: how long each token took, told by the engine itself.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "model/session.h"

namespace bitnet::programs {

/// Tokens of the prompt.
inline constexpr uint32_t kBenchPromptTokens = 16;

/// Answers a fixed prompt greedily with times.size() tokens, stop tokens included, and writes one
/// line of JSON to standard output: how long each token but the first took, in their order. Between
/// tokens nothing but the clock is asked. Errors of Generator::run; kWriteFailed.
Error bench(model::Session& session, std::span<uint64_t> times);

}  // namespace bitnet::programs
