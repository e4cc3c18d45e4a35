// From logits to the next token. docs/numerics.md, Choosing a token, is the definition.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "format/config.h"
#include "kernels/table.h"

namespace bitnet::sampler {

using format::SamplerOptions;

/// What a screened head knows of the scores (logits after the penalty): those of some tokens, and
/// of all others a bound that the score does not exceed.
struct Screened {
  const float* upper;     ///< scores and bounds; below `best` where it is a bound
  const uint8_t* unread;  ///< by token; 0: it is the score
  float* weights;         ///< scratch, [vocab_size padded to a multiple of 16], 64-byte aligned
  float best;             ///< the largest score
};

class Sampler {
 public:
  Sampler() = default;
  /// Takes the sampler's memory from the arena. vocab_size elements of logits are chosen from.
  Sampler(Arena& arena, uint32_t vocab_size);

  /// Forgets the tokens seen.
  void start(const SamplerOptions& options);
  /// A token stands in the context: the repetition penalty applies to it from now on.
  void note(uint32_t token);
  /// The token at place `index` of the answer. `logits` has vocab_size elements, padded to a
  /// multiple of 16; it is overwritten. kNotFinite (where = token id).
  Result<uint32_t> choose(const kernels::KernelTable& kernels, std::span<float> logits,
                          uint64_t index);
  /// The same token where what is known decides it; else returns false.
  bool choose_screened(const kernels::KernelTable& kernels, const Screened& known, uint64_t index,
                       uint32_t* token);

  /// Step 1: the logit after the penalty. Does not fall as the logit rises.
  float penalised(uint32_t token, float logit) const {
    const float penalty = options_.repetition_penalty;
    if (penalty == 1.0f || token >= vocab_size_ || (seen_[token / 64] >> (token % 64) & 1) == 0) {
      return logit;
    }
    return logit > 0.0f ? logit / penalty : logit * penalty;
  }
  /// Whether the penalty changes any of the 16 tokens from `token`, a multiple of 16, on.
  bool changes_any(uint32_t token) const {
    return options_.repetition_penalty != 1.0f && (seen_[token / 64] >> (token % 64) & 0xffff) != 0;
  }
  const SamplerOptions& options() const { return options_; }

 private:
  struct Place {
    uint32_t count;
    double sum;
  };
  Place walk(const float* weights, uint32_t heap_count, uint32_t sure, double target,
             bool above) const;
  bool decide(const float* weights, const uint8_t* unread, uint64_t index, uint32_t* token);
  void sift_down(const float* weights, uint32_t root, uint32_t count);
  uint32_t pop(const float* weights, uint32_t count);

  SamplerOptions options_;
  uint32_t vocab_size_ = 0;
  std::span<uint64_t> seen_;   ///< one bit a token
  std::span<uint32_t> order_;  ///< heap of token ids, then the chosen ones at its end
};

}  // namespace bitnet::sampler
