// The output head: the logits of every row, or the choice of the next token from as few exact rows
// as a bound allows. docs/numerics.md, step 4 and "The screened head", is the definition.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "format/model_file.h"
#include "kernels/table.h"
#include "model/leaf_guard.h"
#include "runtime/threads.h"
#include "sampler/sampler.h"

namespace bitnet::model {

/// No mode changes a result.
enum class HeadMode : uint8_t {
  kScreened,  ///< a choice computes as few rows as its bound allows
  kFull,      ///< every row
};
inline constexpr uint32_t kHeadModeCount = 2;

/// What the choices of tokens have cost so far.
struct HeadCost {
  uint64_t choices;
  uint64_t exact_rows;
  uint64_t bytes;
};

class Head {
 public:
  Head() = default;
  /// Takes memory for the logits of `logits_rows` tokens.
  Head(Arena& arena, const format::ModelHeader& header, uint32_t logits_rows, uint32_t thread_count,
       HeadMode mode);
  void bind(const format::Model& model, const kernels::KernelTable& kernels,
            runtime::ThreadTeam& team, LeafGuard& leaves);

  /// Before a section: its threads will compute the logits of `count` tokens, or what `choose`
  /// needs.
  void begin(uint32_t count, bool choice);
  /// On every thread: from the residual stream of the tokens, float[count][hidden_padded].
  void compute(const float* x, uint32_t thread);
  /// After a section that began with `choice`: the token at place `index` of the answer.
  /// kNotFinite (where = token id), kModelLeaf.
  Result<uint32_t> choose(sampler::Sampler& sampler, uint64_t index);
  /// Logits of token `index` of a section without `choice`, padded to a multiple of 16.
  std::span<float> logits(uint32_t index);
  const HeadCost& cost() const { return cost_; }

 private:
  /// The largest exact score so far, of equal ones the smallest token.
  struct Best {
    float score;
    uint32_t token;
  };

  void prepare(const float* x, uint32_t thread);
  kernels::SplitState state(uint32_t slot) const;
  void multiply_high(size_t row, uint32_t tile_count, const kernels::SplitState& x,
                     const kernels::PlaneSums& sums) const;
  void multiply_rows(size_t row, uint32_t count, const kernels::SplitState& x,
                     const kernels::PlaneSums& high, float* logits) const;
  void multiply_all(uint32_t thread);
  void multiply_f32(uint32_t row_begin, uint32_t row_end, uint32_t slot);
  void multiply_listed(uint32_t thread);
  void screen(uint32_t thread);
  void penalise_bounds(const sampler::Sampler& sampler);
  void extend(const sampler::Sampler& sampler, float threshold, Best* best);
  bool choose_screened(sampler::Sampler& sampler, uint64_t index, uint32_t* token);
  void add_cost(uint64_t exact_rows);
  uint32_t tile_count() const { return vocab_padded_ / kTileRows; }

  const format::ModelHeader* header_ = nullptr;
  format::Table table_{};
  const float* norm_ = nullptr;
  kernels::KernelTable kernels_{};
  runtime::ThreadTeam* team_ = nullptr;
  LeafGuard* leaves_ = nullptr;
  uint32_t hidden_padded_ = 0, vocab_padded_ = 0, rows_max_ = 0;
  size_t code_stride_ = 0;
  float scale_max_ = 0.0f;  ///< the largest row scale

  uint32_t count_ = 0;      ///< tokens of the section
  bool screening_ = false;  ///< the section is for a choice from bounds
  uint32_t listed_count_ = 0, exact_count_ = 0;
  HeadCost cost_{};

  std::span<float> states_;  ///< [max(logits_rows, threads)][hidden_padded]
  std::span<int8_t> hi_, lo_;
  std::span<int32_t> hi_sums_, lo_sums_;
  std::span<float> scales_;
  std::span<float> logits_;  ///< [logits_rows][vocab_padded]
  // Of a choice from bounds, by row of the head; empty where there is none.
  std::span<int32_t> high_hi_, high_lo_;  ///< sums of the high plane
  std::span<float> upper_;                ///< bounds of the scores
  std::span<float> tile_upper_;           ///< the largest of each tile
  std::span<uint8_t> is_exact_;           ///< the logit is computed
  std::span<uint32_t> listed_;            ///< rows to compute next
  std::span<float> weights_;              ///< the sampler's scratch
};

}  // namespace bitnet::model
