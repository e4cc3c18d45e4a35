// SPDX-License-Identifier: Apache-2.0
#include "model/head.h"

#include <cstring>
#include <limits>

namespace bitnet::model {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows whose sums of the high plane a thread computes before it goes on with them.
constexpr uint32_t kChunkTiles = 16;
constexpr uint32_t kChunkRows = kChunkTiles * kTileRows;

// Sampling lowers the threshold by so much in the scaled logit while the choice is undecided.
constexpr float kStep = 2.0f;
constexpr uint32_t kStepsMax = 4;

// Every logit is below 2^37.1 (127 * 16256 * kHiddenSizeMax, rounded) times the scale of its row
// and that of the state: with a product of the scales below this, none overflows.
constexpr float kScaleProductMax = 1e27f;
static_assert(127.0 * 16256.0 * kHiddenSizeMax * 1.001 * kScaleProductMax < 3e38);

/// What the low plane can add to a row: residual norm * `norm`, and `slack` for every rounding;
/// docs/numerics.md, The screened head.
struct Spread {
  float norm;
  float slack;
};

Spread state_spread(const int8_t* hi, const int8_t* lo, uint32_t count) {
  int64_t squares = 0;
  int32_t hi_sum = 0;
  int32_t lo_sum = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const int32_t q = 128 * hi[i] + lo[i];
    squares += q * q;
    hi_sum += hi[i] < 0 ? -hi[i] : hi[i];
    lo_sum += lo[i] < 0 ? -lo[i] : lo[i];
  }
  const double sum = 127.0 * (128.0 * hi_sum + lo_sum);
  return {static_cast<float>(__builtin_sqrt(static_cast<double>(squares)) * (1.0 + 0x1p-20)),
          static_cast<float>(sum * 0x1p-20)};
}

// 32 * sum - 241 * activations is twice what the high plane and the middle of the low one give; it
// is computed modulo 2^32 and fits, as |32 * h - 241| <= 241.
inline float twice_middle(int32_t sum, int32_t activations) {
  return static_cast<float>(static_cast<int32_t>(32u * static_cast<uint32_t>(sum) -
                                                 241u * static_cast<uint32_t>(activations)));
}

}  // namespace

Head::Head(Arena& arena, const format::ModelHeader& header, uint32_t logits_rows,
           uint32_t thread_count, HeadMode mode)
    : header_(&header),
      hidden_padded_(pad_lanes(header.hidden_size)),
      vocab_padded_(pad_lanes(header.vocab_size)),
      rows_max_(logits_rows),
      code_stride_((hidden_padded_ + kLowBlockCols - 1) / kLowBlockCols * kLowBlockCols) {
  // One token is prepared by every thread for itself, so that none waits for another.
  const size_t slots = logits_rows > thread_count ? logits_rows : thread_count;
  states_ = arena.take<float>(slots * hidden_padded_);
  logits_ = arena.take<float>(size_t{logits_rows} * vocab_padded_);
  if (header.head_kind != format::kInt8Rows) return;
  hi_ = arena.take<int8_t>(slots * code_stride_);
  lo_ = arena.take<int8_t>(slots * code_stride_);
  hi_sums_ = arena.take<int32_t>(slots);
  lo_sums_ = arena.take<int32_t>(slots);
  scales_ = arena.take<float>(slots);
  if (mode == HeadMode::kFull) return;
  high_hi_ = arena.take<int32_t>(vocab_padded_);
  high_lo_ = arena.take<int32_t>(vocab_padded_);
  upper_ = arena.take<float>(vocab_padded_);
  tile_upper_ = arena.take<float>(tile_count());
  is_exact_ = arena.take<uint8_t>(vocab_padded_);
  listed_ = arena.take<uint32_t>(vocab_padded_);
  weights_ = arena.take<float>(vocab_padded_);
}

void Head::bind(const format::Model& model, const kernels::KernelTable& kernels,
                runtime::ThreadTeam& team, LeafGuard& leaves) {
  table_ = model.head;
  norm_ = model.final_norm;
  kernels_ = kernels;
  team_ = &team;
  leaves_ = &leaves;
  for (size_t row = 0; row < upper_.size(); ++row) {
    if (table_.row_scales[row] > scale_max_) scale_max_ = table_.row_scales[row];
  }
}

std::span<float> Head::logits(uint32_t index) {
  ENGINE_CHECK(index < rows_max_);
  return logits_.subspan(size_t{index} * vocab_padded_, vocab_padded_);
}

void Head::begin(uint32_t count, bool choice) {
  count_ = count;
  screening_ = choice && !upper_.empty();
}

void Head::compute(const float* x, uint32_t thread) {
  prepare(x, thread);
  if (screening_) {
    // The layers have had this memory: the padding of the codes is zero again.
    const size_t padding = code_stride_ - hidden_padded_;
    std::memset(hi_.data() + thread * code_stride_ + hidden_padded_, 0, padding);
    std::memset(lo_.data() + thread * code_stride_ + hidden_padded_, 0, padding);
    screen(thread);
  } else {
    multiply_all(thread);
  }
}

/// The final norm and the split of the state in two parts.
void Head::prepare(const float* x, uint32_t thread) {
  const bool redundant = count_ == 1;
  const runtime::Range tokens = redundant ? runtime::Range{0, 1} : team_->share(count_, thread);
  for (uint32_t t = tokens.begin; t < tokens.end; ++t) {
    const uint32_t slot = redundant ? thread : t;
    float* state = states_.data() + size_t{slot} * hidden_padded_;
    kernels_.rms_norm(x + size_t{t} * hidden_padded_, norm_, header_->hidden_size, hidden_padded_,
                      header_->norm_eps, state);
    if (table_.kind == format::kInt8Rows) {
      scales_[slot] = kernels_.quantize_split(
          state, hidden_padded_, hi_.data() + slot * code_stride_, lo_.data() + slot * code_stride_,
          &hi_sums_[slot], &lo_sums_[slot]);
    }
  }
  if (!redundant) team_->barrier(thread);
}

kernels::SplitState Head::state(uint32_t slot) const {
  return {hi_.data() + slot * code_stride_, lo_.data() + slot * code_stride_, hi_sums_[slot],
          lo_sums_[slot], scales_[slot]};
}

/// Sums of the tiles from `row` on.
void Head::multiply_high(size_t row, uint32_t tile_count, const kernels::SplitState& x,
                         const kernels::PlaneSums& sums) const {
  const uint8_t* high = table_.data + row * hidden_padded_ / 2;
  leaves_->need(high, size_t{tile_count} * kTileRows * hidden_padded_ / 2);
  kernels_.int8_high({high, hidden_padded_, tile_count}, x, sums);
}

/// Rows that follow each other, from their sums of the high plane.
void Head::multiply_rows(size_t row, uint32_t count, const kernels::SplitState& x,
                         const kernels::PlaneSums& high, float* logits) const {
  const uint8_t* low = table_.low + row * low_row_bytes(hidden_padded_);
  leaves_->need(low, count * low_row_bytes(hidden_padded_));
  kernels_.int8_logits({low, table_.row_scales + row, hidden_padded_, count}, x, high, logits);
}

/// This thread's rows for all tokens.
void Head::multiply_all(uint32_t thread) {
  const runtime::Range tiles = team_->share(tile_count(), thread);
  const uint32_t slot = count_ == 1 ? thread : 0;
  if (table_.kind == format::kF32Rows) {
    return multiply_f32(tiles.begin * kTileRows, tiles.end * kTileRows, slot);
  }
  alignas(64) int32_t hi[kChunkRows];
  alignas(64) int32_t lo[kChunkRows];
  for (uint32_t begin = tiles.begin; begin < tiles.end; begin += kChunkTiles) {
    const uint32_t left = tiles.end - begin;
    const uint32_t count = left < kChunkTiles ? left : kChunkTiles;
    for (uint32_t t = 0; t < count_; ++t) {  // a chunk is in a near cache after the first token
      const size_t row = size_t{begin} * kTileRows;
      multiply_high(row, count, state(slot + t), {hi, lo});
      multiply_rows(row, count * kTileRows, state(slot + t), {hi, lo},
                    logits_.data() + size_t{t} * vocab_padded_ + row);
    }
  }
}

void Head::multiply_f32(uint32_t row_begin, uint32_t row_end, uint32_t slot) {
  if (row_end > table_.rows) row_end = table_.rows;
  if (row_begin >= row_end) return;
  const size_t row_bytes = size_t{hidden_padded_} * 4;
  leaves_->need(table_.data + row_begin * row_bytes, (row_end - row_begin) * row_bytes);
  kernels_.f32_matmul(reinterpret_cast<const float*>(table_.data), hidden_padded_, row_begin,
                      row_end, states_.data() + size_t{slot} * hidden_padded_, hidden_padded_,
                      count_, logits_.data(), vocab_padded_);
}

/// This thread's part of the listed rows, those that follow each other in one call.
void Head::multiply_listed(uint32_t thread) {
  const runtime::Range part = team_->share(listed_count_, thread);
  for (uint32_t i = part.begin; i < part.end;) {
    const size_t row = listed_[i];
    uint32_t count = 1;
    while (i + count < part.end && listed_[i + count] == row + count) ++count;
    multiply_rows(row, count, state(thread), {high_hi_.data() + row, high_lo_.data() + row},
                  logits_.data() + row);
    i += count;
  }
}

/// Bounds of this thread's rows from the high plane.
void Head::screen(uint32_t thread) {
  const runtime::Range tiles = team_->share(tile_count(), thread);
  const kernels::SplitState x = state(thread);
  const Spread spread = state_spread(x.hi, x.lo, hidden_padded_);
  for (uint32_t begin = tiles.begin; begin < tiles.end; begin += kChunkTiles) {
    const uint32_t end = begin + kChunkTiles < tiles.end ? begin + kChunkTiles : tiles.end;
    const size_t first = size_t{begin} * kTileRows;
    multiply_high(first, end - begin, x, {high_hi_.data() + first, high_lo_.data() + first});
    for (uint32_t row = begin * kTileRows; row < end * kTileRows; ++row) {
      const float middle = twice_middle(high_hi_[row], x.hi_sum) * 64.0f +
                           twice_middle(high_lo_[row], x.lo_sum) * 0.5f;
      const float added = table_.residual_norms[row] * spread.norm + spread.slack;
      upper_[row] = (middle + added) * (table_.row_scales[row] * x.scale);
    }
    for (uint32_t tile = begin; tile < end; ++tile) {
      const float* upper = upper_.data() + size_t{tile} * kTileRows;
      float largest = upper[0];
      for (uint32_t i = 1; i < kTileRows; ++i) largest = upper[i] > largest ? upper[i] : largest;
      tile_upper_[tile] = largest;
    }
  }
}

/// Bounds of logits become bounds of scores.
void Head::penalise_bounds(const sampler::Sampler& sampler) {
  for (uint32_t tile = 0; tile < tile_count(); ++tile) {
    if (!sampler.changes_any(tile * kTileRows)) continue;
    tile_upper_[tile] = -kInfinity;
    for (uint32_t row = tile * kTileRows; row < (tile + 1) * kTileRows; ++row) {
      upper_[row] = sampler.penalised(row, upper_[row]);
      if (upper_[row] > tile_upper_[tile]) tile_upper_[tile] = upper_[row];
    }
  }
}

/// Computes the logits of all further rows whose bound is not below `threshold`.
void Head::extend(const sampler::Sampler& sampler, float threshold, Best* best) {
  listed_count_ = 0;
  for (uint32_t tile = 0; tile < tile_count(); ++tile) {
    if (tile_upper_[tile] < threshold) continue;
    const uint32_t end = (tile + 1) * kTileRows;
    for (uint32_t row = tile * kTileRows; row < end && row < header_->vocab_size; ++row) {
      if (upper_[row] < threshold || is_exact_[row] != 0) continue;
      // A single row between two listed ones costs less than the break in the stream.
      const uint32_t count = listed_count_;
      const bool gap = count > 0 && listed_[count - 1] + 2 == row && is_exact_[row - 1] == 0;
      if (gap) listed_[listed_count_++] = row - 1;
      listed_[listed_count_++] = row;
    }
  }
  if (listed_count_ == 0) return;
  team_->run([](void* self, uint32_t t) { static_cast<Head*>(self)->multiply_listed(t); }, this);
  exact_count_ += listed_count_;
  for (uint32_t i = 0; i < listed_count_; ++i) {
    const uint32_t token = listed_[i];
    const float score = sampler.penalised(token, logits_[token]);
    is_exact_[token] = 1;
    const bool first = score == best->score && token < best->token;
    if (score > best->score || first) *best = {score, token};
  }
}

/// False where all logits have been computed and none of them chosen.
bool Head::choose_screened(sampler::Sampler& sampler, uint64_t index, uint32_t* token) {
  exact_count_ = 0;
  std::memset(is_exact_.data(), 0, is_exact_.size());
  Best best{-kInfinity, header_->vocab_size};
  // Not finite, or so large that a logit might be: then there is no bound to rely on.
  if (scale_max_ * scales_[0] < kScaleProductMax) {
    penalise_bounds(sampler);
    float largest = -kInfinity;
    for (const float bound : tile_upper_) largest = bound > largest ? bound : largest;
    // Best first, so that the threshold is high when most rows are held against it.
    extend(sampler, largest, &best);
    extend(sampler, best.score + (largest - best.score) / 2, &best);
    extend(sampler, best.score, &best);
    const float temperature = sampler.options().temperature;
    *token = best.token;
    if (temperature == 0.0f) return true;
    const sampler::Screened known{logits_.data(), upper_.data(), is_exact_.data(), weights_.data(),
                                  best.score};
    for (uint32_t step = 1; step <= kStepsMax && exact_count_ < table_.rows / 2; ++step) {
      if (sampler.choose_screened(kernels_, known, index, token)) return true;
      extend(sampler, best.score - kStep * static_cast<float>(step) * temperature, &best);
    }
  }
  extend(sampler, -kInfinity, &best);
  return false;
}

void Head::add_cost(uint64_t exact_rows) {
  const bool integers = table_.kind == format::kInt8Rows;
  ++cost_.choices;
  cost_.exact_rows += exact_rows;
  cost_.bytes += exact_rows * (integers ? low_row_bytes(hidden_padded_) : 4 * hidden_padded_);
  if (integers) cost_.bytes += uint64_t{vocab_padded_} * (hidden_padded_ / 2 + 4);
  if (screening_) cost_.bytes += uint64_t{vocab_padded_} * 4;
}

Result<uint32_t> Head::choose(sampler::Sampler& sampler, uint64_t index) {
  uint32_t token = 0;
  const bool chosen = screening_ && choose_screened(sampler, index, &token);
  add_cost(screening_ ? exact_count_ : table_.rows);
  if (const Error error = leaves_->error(); failed(error)) return error;
  return chosen ? Result<uint32_t>(token) : sampler.choose(kernels_, logits(0), index);
}

}  // namespace bitnet::model
