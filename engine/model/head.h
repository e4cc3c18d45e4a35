// The output head: the logits of every row, or the choice of the next token from as few exact rows
// as a bound allows. docs/numerics.md, step 4 and "The screened head", is the definition.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "format/config.h"
#include "format/model_file.h"
#include "kernels/table.h"
#include "model/leaf_guard.h"
#include "runtime/threads.h"
#include "sampler/sampler.h"

namespace bitnet::model {

using format::HeadMode;

/// What all of a forward pass works with: each part of it knows this, and model and kernels are set
/// before the first one.
struct Context {
  format::Model model{};
  kernels::KernelTable kernels{};
  runtime::ThreadTeam team;
  LeafGuard leaves;
};

/// What the choices of tokens have cost so far.
struct HeadCost {
  uint64_t choices;
  uint64_t exact_rows;
  uint64_t bytes;
};

class Head {
 public:
  Head() = default;
  Head(Arena& arena, const format::ModelHeader& header, uint32_t thread_count, HeadMode mode,
       Context& context);

  /// On every thread: what `choose` needs, from the residual stream, float[hidden_padded]; or, if
  /// it shall be all, the logits: vocab_size, padded to a multiple of 16, until the next call.
  void compute(const float* x, uint32_t thread, bool all = false);
  /// After `compute`: the token at place `index` of the answer. kNotFinite (where = token id),
  /// kModelLeaf.
  Result<uint32_t> choose(sampler::Sampler& sampler, uint64_t index);
  std::span<float> logits() { return logits_; }
  const HeadCost& cost() const { return cost_; }

 private:
  /// The low plane of a row is read in two parts: its first columns, then the others.
  static constexpr uint32_t kParts = 2;
  /// What the sums of a row need to become a bound of its logit; docs/numerics.md, The screened
  /// head.
  struct Bound {
    int32_t hi, lo;     ///< added to twice the sums
    float norm, slack;  ///< residual norm * norm + slack: what the columns not read can add
    float scale;        ///< of the state
  };
  /// Rows that go on from `from` parts read to `to`.
  struct Step {
    uint32_t from = 0, to = 0;
  };
  /// The largest exact score so far, of equal ones the smallest token.
  struct Best {
    float score;
    uint32_t token;
  };

  void prepare(const float* x, uint32_t thread);
  kernels::SplitState state(uint32_t thread, uint32_t col = 0) const;
  Bound* bounds(uint32_t thread) const { return bounds_.data() + size_t{thread} * (kParts + 1); }
  void bound_parts(uint32_t thread);
  void bound_rows(const Bound& bound, size_t first, uint32_t count, const kernels::PlaneSums& sums,
                  float* upper) const;
  void multiply_high(size_t row, uint32_t tile_count, uint32_t thread,
                     const kernels::PlaneSums& sums) const;
  void multiply_low(size_t first, std::span<const uint32_t> rows, Step step, uint32_t thread,
                    const kernels::PlaneSums& sums) const;
  void multiply_f32(uint32_t row_begin, uint32_t row_end, uint32_t thread);
  void multiply_listed(uint32_t thread);
  void screen(size_t first, uint32_t count, uint32_t thread);
  void penalise_bounds();
  void list_rows(float threshold, uint32_t from);
  void extend(float threshold);
  bool choose_screened(sampler::Sampler& sampler, uint64_t index, uint32_t* token);
  void add_cost();
  uint32_t tile_count() const { return vocab_padded_ / kTileRows; }

  const format::Table& table() const { return context_->model.head; }
  const kernels::KernelTable& kernels() const { return context_->kernels; }

  const format::ModelHeader* header_ = nullptr;
  Context* context_ = nullptr;
  uint32_t hidden_padded_ = 0, vocab_padded_ = 0;
  uint32_t code_stride_ = 0;
  uint32_t part_cols_[kParts + 1] = {};  ///< where each part begins, and the end

  const sampler::Sampler* sampler_ = nullptr;  ///< of the choice under way
  Step step_{};
  uint32_t listed_count_ = 0, exact_count_ = 0;
  Best best_{};
  uint64_t low_bytes_ = 0;
  HeadCost cost_{};

  std::span<float> states_;  ///< [thread][hidden_padded]
  std::span<int8_t> hi_, lo_;
  std::span<Bound> bounds_;  ///< [thread][kParts + 1], by the parts read
  std::span<float> logits_;  ///< [vocab_padded]
  // Of a choice from bounds, by row of the head; empty where there is none.
  std::span<int32_t> hi_sums_, lo_sums_;  ///< of the high plane and the parts read
  std::span<float> upper_;                ///< bounds of the scores; the scores of exact rows
  std::span<float> tile_upper_;           ///< not below any of the tile
  std::span<uint8_t> unread_;             ///< parts not read; 0: the row is exact
  std::span<uint32_t> listed_;            ///< rows to read next
  std::span<float> weights_;              ///< the sampler's scratch
};

}  // namespace bitnet::model
