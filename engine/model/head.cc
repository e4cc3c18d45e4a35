// SPDX-License-Identifier: Apache-2.0
#include "model/head.h"

#include <array>
#include <cstring>
#include <limits>

namespace bitnet::model {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows whose sums of the high plane a thread computes before it goes on with them.
constexpr uint32_t kChunkTiles = 16;
constexpr uint32_t kChunkRows = kChunkTiles * kTileRows;
constexpr auto kChunkInOrder = [] {
  std::array<uint32_t, kChunkRows> rows{};
  for (uint32_t i = 0; i < kChunkRows; ++i) rows[i] = i;
  return rows;
}();

// Sampling lowers the threshold by so much in the scaled logit while the choice is undecided.
constexpr float kStep = 2.0f;
constexpr uint32_t kStepsMax = 4;

// Every logit is below 2^37.1 (127 * 16256 * kHiddenSizeMax, rounded) times the scale of its row
// and that of the state: with a product of the scales below this, none overflows.
constexpr float kScaleProductMax = 1e27f;
static_assert(127.0 * 16256.0 * kHiddenSizeMax * 1.001 * kScaleProductMax < 3e38);

// A part of a row is read in steps of so many blocks, where that reaches each of them: no
// prefetcher then sees a stream, which it would follow beyond the part.
constexpr uint32_t kBlockStep = 3;

// A list of so few rows is not worth a section of its own for each part.
constexpr uint32_t kRowsFew = 64;

// A nibble of the low plane is at most so far from the middle.
constexpr double kResidualMax = 7.5;

// How many times their root mean square absolute values of the state count in the norm when no part
// is read, when one is. Anything is correct; near to these the bound is smallest.
constexpr double kClip[] = {1.4, 0.9};

uint32_t magnitude(int32_t value) { return static_cast<uint32_t>(value < 0 ? -value : value); }

/// Of the absolute values in a range of a state, none counted above a limit.
struct Clipped {
  double norm;
  double rest;  ///< the sum of what they have beyond the limit
};

Clipped clip(const kernels::SplitState& x, uint32_t begin, uint32_t end, uint32_t limit) {
  uint64_t squares = 0;
  uint32_t rest = 0;
  for (uint32_t i = begin; i < end; ++i) {
    const uint32_t q = magnitude(128 * x.hi[i] + x.lo[i]);
    const uint32_t clipped = q < limit ? q : limit;
    squares += clipped * clipped;
    rest += q - clipped;
  }
  return {__builtin_sqrt(static_cast<double>(squares)), static_cast<double>(rest)};
}

// Twice a sum and what belongs to it, computed modulo 2^32: the result fits.
inline float twice(int32_t sum, int32_t offset) {
  return static_cast<float>(
      static_cast<int32_t>(2u * static_cast<uint32_t>(sum) + static_cast<uint32_t>(offset)));
}

}  // namespace

Head::Head(Arena& arena, const format::ModelHeader& header, uint32_t thread_count, HeadMode mode,
           Context& context)
    : header_(&header),
      context_(&context),
      hidden_padded_(pad_lanes(header.hidden_size)),
      vocab_padded_(pad_lanes(header.vocab_size)),
      code_stride_((hidden_padded_ + kLowBlockCols - 1) / kLowBlockCols * kLowBlockCols) {
  // Every thread prepares the state for itself, so that none waits for another.
  states_ = arena.take<float>(size_t{thread_count} * hidden_padded_);
  logits_ = arena.take<float>(vocab_padded_);
  if (header.head_kind != format::kInt8Rows) return;
  hi_ = arena.take<int8_t>(size_t{thread_count} * code_stride_);
  lo_ = arena.take<int8_t>(size_t{thread_count} * code_stride_);
  bounds_ = arena.take<Bound>(size_t{thread_count} * (kParts + 1));
  part_cols_[1] = (code_stride_ / kLowBlockCols + 1) / 3 * kLowBlockCols;
  part_cols_[kParts] = code_stride_;
  if (mode == HeadMode::kFull) return;
  hi_sums_ = arena.take<int32_t>(vocab_padded_);
  lo_sums_ = arena.take<int32_t>(vocab_padded_);
  upper_ = arena.take<float>(vocab_padded_);
  tile_upper_ = arena.take<float>(tile_count());
  unread_ = arena.take<uint8_t>(vocab_padded_);
  listed_ = arena.take<uint32_t>(vocab_padded_);
  weights_ = arena.take<float>(vocab_padded_);
}

/// The final norm and the split of the state in two parts.
void Head::prepare(const float* x, uint32_t thread) {
  float* state = states_.data() + size_t{thread} * hidden_padded_;
  kernels().rms_norm(x, context_->model.final_norm, header_->hidden_size, hidden_padded_,
                     header_->norm_eps, state);
  if (table().kind == format::kF32Rows) return;
  int8_t* hi_codes = hi_.data() + size_t{thread} * code_stride_;
  int8_t* lo_codes = lo_.data() + size_t{thread} * code_stride_;
  int32_t hi;
  int32_t lo;
  const float scale = kernels().quantize_split(state, hidden_padded_, hi_codes, lo_codes, &hi, &lo);
  // The layers have had this memory: the padding of the codes is zero again.
  std::memset(hi_codes + hidden_padded_, 0, code_stride_ - hidden_padded_);
  std::memset(lo_codes + hidden_padded_, 0, code_stride_ - hidden_padded_);
  bounds(thread)[kParts] = {-256 * hi, -256 * lo, 0.0f, 0.0f, scale};
}

kernels::SplitState Head::state(uint32_t thread, uint32_t col) const {
  const size_t at = size_t{thread} * code_stride_ + col;
  return {hi_.data() + at, lo_.data() + at};
}

/// What the rows can reach of which fewer parts are read, for the state of `thread`.
void Head::bound_parts(uint32_t thread) {
  static_assert(sizeof kClip == kParts * sizeof(double));
  const kernels::SplitState x = state(thread);
  const double mean = clip(x, 0, code_stride_, UINT32_MAX).norm / __builtin_sqrt(code_stride_);
  double absolute = 0.0;
  for (uint32_t part = kParts; part-- > 0;) {
    Bound& bound = bounds(thread)[part];
    bound = bounds(thread)[part + 1];
    for (uint32_t i = part_cols_[part]; i < part_cols_[part + 1]; ++i) {
      bound.hi += 15 * x.hi[i];
      bound.lo += 15 * x.lo[i];
      absolute += 128.0 * magnitude(x.hi[i]) + magnitude(x.lo[i]);
    }
    const auto limit = static_cast<uint32_t>(mean * kClip[part]);
    const Clipped clipped = clip(x, part_cols_[part], code_stride_, limit);
    bound.norm = static_cast<float>(clipped.norm * (1.0 + 0x1p-20));
    bound.slack = static_cast<float>(kResidualMax * clipped.rest * (1.0 + 0x1p-20));
  }
  const double slack = 127.0 * absolute * 0x1p-20;
  for (uint32_t part = 0; part < kParts; ++part) {
    bounds(thread)[part].slack = static_cast<float>(bounds(thread)[part].slack + slack);
  }
}

/// Sums of the tiles from `row` on.
void Head::multiply_high(size_t row, uint32_t tile_count, uint32_t thread,
                         const kernels::PlaneSums& sums) const {
  const uint8_t* high = table().data + row * hidden_padded_ / 2;
  context_->leaves.need(high, size_t{tile_count} * kTileRows * hidden_padded_ / 2);
  kernels().int8_high({high, hidden_padded_, tile_count}, state(thread), sums);
}

/// Adds the sums of parts of some rows, which are counted from `first` on; their leaves are good.
void Head::multiply_low(size_t first, std::span<const uint32_t> rows, Step step, uint32_t thread,
                        const kernels::PlaneSums& sums) const {
  const size_t row_bytes = low_row_bytes(hidden_padded_);
  const uint32_t begin = part_cols_[step.from];
  const uint32_t blocks = (part_cols_[step.to] - begin) / kLowBlockCols;
  const bool stream = step.to - step.from == kParts || blocks % kBlockStep == 0;
  kernels().int8_low({table().low + first * row_bytes + begin / 2, row_bytes, blocks,
                      stream ? 1 : kBlockStep, rows.data(), static_cast<uint32_t>(rows.size())},
                     state(thread, begin), sums);
}

/// Bounds of the logits of rows that follow each other; the logits where all parts are read.
void Head::bound_rows(const Bound& bound, size_t first, uint32_t count,
                      const kernels::PlaneSums& sums, float* upper) const {
  const float* norms = table().residual_norms + first;
  const float* scales = table().row_scales + first;
  const auto [hi_offset, lo_offset, norm, slack, scale] = bound;
  // Nothing where all is read, or the state is zero; whatever the norms are.
  const float most = slack == 0.0f ? 0.0f : kInfinity;
  for (uint32_t i = 0; i < count; ++i) {
    const float middle = twice(sums.hi[i], hi_offset) * 64.0f + twice(sums.lo[i], lo_offset) * 0.5f;
    const float added = norms[i] * norm + slack;
    upper[i] = (middle + (added < most ? added : most)) * (scales[i] * scale);
  }
}

void Head::compute(const float* x, uint32_t thread, bool all) {
  prepare(x, thread);
  const runtime::Range tiles = context_->team.share(tile_count(), thread);
  if (table().kind == format::kF32Rows) {
    return multiply_f32(tiles.begin * kTileRows, tiles.end * kTileRows, thread);
  }
  const bool screening = !all && !upper_.empty();
  if (screening) bound_parts(thread);
  const size_t row_bytes = low_row_bytes(hidden_padded_);
  alignas(64) int32_t hi[kChunkRows];
  alignas(64) int32_t lo[kChunkRows];
  for (uint32_t begin = tiles.begin; begin < tiles.end; begin += kChunkTiles) {
    const uint32_t left = tiles.end - begin;
    const uint32_t count = (left < kChunkTiles ? left : kChunkTiles) * kTileRows;
    const size_t row = size_t{begin} * kTileRows;
    if (screening) {
      screen(row, count, thread);
      continue;
    }
    context_->leaves.need(table().low + row * row_bytes, count * row_bytes);
    multiply_high(row, count / kTileRows, thread, {hi, lo});
    multiply_low(row, {kChunkInOrder.data(), count}, {0, kParts}, thread, {hi, lo});
    bound_rows(bounds(thread)[kParts], row, count, {hi, lo}, logits_.data() + row);
  }
}

void Head::multiply_f32(uint32_t row_begin, uint32_t row_end, uint32_t thread) {
  if (row_end > table().rows) row_end = table().rows;
  if (row_begin >= row_end) return;
  const size_t row_bytes = size_t{hidden_padded_} * 4;
  context_->leaves.need(table().data + row_begin * row_bytes, (row_end - row_begin) * row_bytes);
  kernels().f32_matmul(reinterpret_cast<const float*>(table().data), hidden_padded_, row_begin,
                       row_end, states_.data() + size_t{thread} * hidden_padded_, logits_.data());
}

/// Takes the step with this thread's part of the listed rows.
void Head::multiply_listed(uint32_t thread) {
  const runtime::Range part = context_->team.share(listed_count_, thread);
  const std::span<const uint32_t> rows = listed_.subspan(part.begin, part.end - part.begin);
  const size_t row_bytes = low_row_bytes(hidden_padded_);
  for (const uint32_t row : rows) context_->leaves.need(table().low + row * row_bytes, row_bytes);
  multiply_low(0, rows, step_, thread, {hi_sums_.data(), lo_sums_.data()});
  for (const uint32_t row : rows) {
    bound_rows(bounds(thread)[step_.to], row, 1, {&hi_sums_[row], &lo_sums_[row]}, &logits_[row]);
    upper_[row] = sampler_->penalised(row, logits_[row]);
    unread_[row] = static_cast<uint8_t>(kParts - step_.to);
  }
}

/// Bounds of rows, whole tiles of them, from the high plane.
void Head::screen(size_t first, uint32_t count, uint32_t thread) {
  const kernels::PlaneSums sums{hi_sums_.data() + first, lo_sums_.data() + first};
  multiply_high(first, count / kTileRows, thread, sums);
  bound_rows(bounds(thread)[0], first, count, sums, upper_.data() + first);
  if (first + count == vocab_padded_) {  // rows that pad are no tokens: their bound counts not
    for (float& upper : upper_.subspan(header_->vocab_size)) upper = -kInfinity;
  }
  for (const float* upper = &upper_[first]; upper < &upper_[first] + count; upper += kTileRows) {
    float largest = upper[0];
    for (uint32_t i = 1; i < kTileRows; ++i) largest = upper[i] > largest ? upper[i] : largest;
    tile_upper_[static_cast<size_t>(upper - upper_.data()) / kTileRows] = largest;
  }
}

/// Bounds of logits become bounds of scores.
void Head::penalise_bounds() {
  for (uint32_t tile = 0; tile < tile_count(); ++tile) {
    if (!sampler_->changes_any(tile * kTileRows)) continue;
    tile_upper_[tile] = -kInfinity;
    for (uint32_t row = tile * kTileRows; row < (tile + 1) * kTileRows; ++row) {
      upper_[row] = sampler_->penalised(row, upper_[row]);
      if (upper_[row] > tile_upper_[tile]) tile_upper_[tile] = upper_[row];
    }
  }
}

/// Lists the rows with `from` parts read whose bound is not below `threshold`.
void Head::list_rows(float threshold, uint32_t from) {
  uint32_t count = 0;
  for (uint32_t tile = 0; tile < tile_count(); ++tile) {
    if (tile_upper_[tile] < threshold) continue;
    const uint32_t end = (tile + 1) * kTileRows;
    for (uint32_t row = tile * kTileRows; row < end && row < header_->vocab_size; ++row) {
      listed_[count] = row;  // kept where it counts: branches would be guessed wrongly
      count += static_cast<uint32_t>(!(upper_[row] < threshold)) &
               static_cast<uint32_t>(unread_[row] + from == kParts);
    }
  }
  listed_count_ = count;
}

/// Computes the logits of all further rows whose bound is not below `threshold`.
void Head::extend(float threshold) {
  for (uint32_t from = 0; from < kParts; ++from) {
    list_rows(threshold, from);
    if (listed_count_ == 0) continue;
    const bool whole = listed_count_ <= kRowsFew || threshold == -kInfinity;
    step_ = {from, whole ? kParts : from + 1};
    context_->team.run([](void* self, uint32_t t) { static_cast<Head*>(self)->multiply_listed(t); },
                       this);
    low_bytes_ += uint64_t{listed_count_} * (part_cols_[step_.to] - part_cols_[step_.from]) / 2;
    if (step_.to < kParts) continue;
    exact_count_ += listed_count_;
    for (const uint32_t token : listed_.first(listed_count_)) {
      const float score = upper_[token];
      const bool first = score == best_.score && token < best_.token;
      if (score > best_.score || first) best_ = {score, token};
    }
  }
}

/// False where all logits have been computed and none of them chosen.
bool Head::choose_screened(sampler::Sampler& sampler, uint64_t index, uint32_t* token) {
  sampler_ = &sampler;
  exact_count_ = 0;
  low_bytes_ = 0;
  best_ = {-kInfinity, header_->vocab_size};
  std::memset(unread_.data(), kParts, unread_.size());
  // Not finite, or so large that a logit might be: then there is no bound to rely on.
  if (table().scale_max * bounds(0)[0].scale < kScaleProductMax) {
    penalise_bounds();
    float largest = -kInfinity;
    for (const float bound : tile_upper_) largest = bound > largest ? bound : largest;
    // Best first, so that the threshold is high when most rows are held against it.
    extend(largest);
    extend(best_.score + (largest - best_.score) / 2);
    extend(best_.score);
    const float temperature = sampler.options().temperature;
    *token = best_.token;
    if (temperature == 0.0f) return true;
    const sampler::Screened known{upper_.data(), unread_.data(), weights_.data(), best_.score};
    for (uint32_t step = 1; step <= kStepsMax && exact_count_ < table().rows / 2; ++step) {
      if (sampler.choose_screened(kernels(), known, index, token)) return true;
      extend(best_.score - kStep * static_cast<float>(step) * temperature);
    }
  }
  extend(-kInfinity);
  return false;
}

void Head::add_cost() {
  const bool integers = table().kind == format::kInt8Rows;
  const bool screening = !upper_.empty();
  const uint64_t all_bytes =
      uint64_t{table().rows} * (integers ? low_row_bytes(hidden_padded_) : 4 * hidden_padded_);
  ++cost_.choices;
  cost_.exact_rows += screening ? exact_count_ : table().rows;
  cost_.bytes += screening ? low_bytes_ : all_bytes;
  if (integers) cost_.bytes += uint64_t{vocab_padded_} * (hidden_padded_ / 2 + 4);
  if (screening) cost_.bytes += uint64_t{vocab_padded_} * 4;
}

Result<uint32_t> Head::choose(sampler::Sampler& sampler, uint64_t index) {
  uint32_t token = 0;
  const bool chosen = !upper_.empty() && choose_screened(sampler, index, &token);
  add_cost();
  BITNET_TRY(context_->leaves.error());
  return chosen ? Result<uint32_t>(token) : sampler.choose(kernels(), logits(), index);
}

}  // namespace bitnet::model
