// The forward pass: token ids in, logits out. docs/numerics.md is the definition.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "format/model_file.h"
#include "kernels/table.h"
#include "model/head.h"
#include "model/kv_cache.h"
#include "model/leaf_guard.h"
#include "runtime/threads.h"

namespace bitnet::model {

using format::SessionOptions;

enum class LogitsMode : uint8_t {
  kNone,
  kChoice,  ///< what `head().choose` needs to choose the token after the last
};

/// One model with its KV cache and its activations, all in the arena.
///
/// Every thread of the team runs `work`; what is divided between threads is rows of a matrix,
/// tokens or heads, never a sum, so the number of threads cannot change a bit.
class Transformer {
 public:
  Transformer() = default;
  /// Takes all memory but that of `cache`; what stands in it before the first forward is of no
  /// account. With a counting arena nothing else may be called.
  Transformer(Arena& arena, const format::ModelHeader& header, const SessionOptions& options,
              const KvCache& cache, Context& context);

  /// Computes `ids` (1 … prefill_chunk of them) at positions position, position + 1 …, whose
  /// predecessors are in the cache. kTokenRange (where = index), kContextOverflow, kModelLeaf.
  Error forward(std::span<const uint32_t> ids, uint32_t position, LogitsMode mode);

  /// The head's input for token `index` of the last forward, until the next.
  const float* state(uint32_t index) const { return x_.data() + size_t{index} * hidden_padded_; }
  Head& head() { return head_; }

  const SessionOptions& options() const { return options_; }
  const kernels::KernelTable& kernels() const { return context_->kernels; }

 private:
  using Range = runtime::Range;

  void work(uint32_t thread);
  void embed(uint32_t token_index);
  void attention_block(const format::Layer& layer, uint32_t layer_index, uint32_t thread);
  void feed_forward_block(const format::Layer& layer, uint32_t thread);

  void quantize_tokens(const float* x, size_t stride, const float* norm, uint32_t width,
                       uint32_t thread);
  void multiply(const format::Matrix& matrix, Range tiles, float* y, size_t y_stride,
                uint32_t thread);
  Range take_piece(Range* left) const;
  void multiply_and_add(const format::Matrix& matrix, uint32_t thread);
  void rotate_and_store(uint32_t layer_index, uint32_t thread);
  void attend(uint32_t layer_index, uint32_t thread);

  float* scratch(uint32_t thread) { return scratch_.data() + size_t{thread} * scratch_stride_; }
  /// [q_rows_padded]: what attention gives stands where q, k and v stood.
  float* attended(uint32_t token) { return qkv_.data() + size_t{token} * q_rows_padded_; }

  const format::ModelHeader* header_ = nullptr;
  Context* context_ = nullptr;
  SessionOptions options_{};

  uint32_t hidden_padded_ = 0;
  uint32_t q_rows_ = 0, q_rows_padded_ = 0;
  uint32_t kv_rows_ = 0, kv_rows_padded_ = 0;
  uint32_t intermediate_padded_ = 0;
  uint32_t head_dim_padded_ = 0;
  uint32_t score_rows_ = 0;
  uint32_t width_max_ = 0, scratch_stride_ = 0;
  size_t score_stride_ = 0;
  uint32_t angle_stride_ = 0;
  size_t code_stride_ = 0, qkv_stride_ = 0;

  // The call under way.
  std::span<const uint32_t> ids_;
  uint32_t token_count_ = 0;
  uint32_t position_ = 0;
  LogitsMode mode_ = LogitsMode::kNone;

  std::span<float> x_;       ///< [chunk][hidden_padded], the residual stream
  std::span<int8_t> codes_;  ///< [max(chunk, threads)][code_stride]
  std::span<int32_t> sums_;
  std::span<float> scales_;
  std::span<float> scratch_;      ///< [thread][scratch_stride], within one step of a thread
  std::span<float> multipliers_;  ///< [thread][chunk]
  std::span<float> scores_;       ///< [thread][score_rows][score_stride]
  std::span<float> sin_, cos_;    ///< [chunk][head_dim / 2 padded]
  // In the same memory: attention's and the feed-forward block's.
  std::span<float> qkv_;        ///< [chunk][q | k | v]
  std::span<float> q_rotated_;  ///< [chunk][head][head_dim_padded]
  std::span<float> gate_;       ///< [chunk][intermediate_padded]
  // In the memory of all of them but x_.
  Head head_;
  KvCache cache_;
};

}  // namespace bitnet::model
