// From logits to the next token. docs/numerics.md, Choosing a token, is the definition.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "kernels/table.h"

namespace bitnet::sampler {

struct SamplerOptions {
  float temperature = 0.0f;         ///< 0: greedy
  uint32_t top_k = 0;               ///< 0: off
  float top_p = 1.0f;               ///< 1: off
  float repetition_penalty = 1.0f;  ///< 1: off
  uint64_t seed = 0;
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

 private:
  void sift_down(const float* weights, uint32_t root, uint32_t count);
  uint32_t pop(const float* weights, uint32_t count);
  uint32_t draw(const float* weights, double unit);

  SamplerOptions options_;
  uint32_t vocab_size_ = 0;
  std::span<uint64_t> seen_;   ///< one bit a token
  std::span<uint32_t> order_;  ///< heap of token ids, then the chosen ones at its end
};

}  // namespace bitnet::sampler
