// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <cstring>

namespace bitnet::model {
namespace {

uint32_t max2(uint32_t a, uint32_t b) { return a > b ? a : b; }
uint32_t min2(uint32_t a, uint32_t b) { return a < b ? a : b; }

/// Most bytes that all threads together have for the scores of several tokens at a time.
constexpr size_t kScoreBytesMax = 4 << 20;

/// Rows of queries that a thread computes in one call of attention: the heads of a group, and as
/// many tokens as the kernel takes and the memory for their scores allows.
uint32_t score_rows(uint32_t group, const SessionOptions& options, size_t row_bytes) {
  const uint32_t heads = min2(group, kernels::kAttentionRowsMax);
  const size_t fit = kScoreBytesMax / (row_bytes * options.threads);
  const uint32_t rows =
      fit < kernels::kAttentionRowsMax ? static_cast<uint32_t>(fit) : kernels::kAttentionRowsMax;
  return heads * min2(max2(1, rows / heads), options.prefill_chunk);
}

}  // namespace

Transformer::Transformer(Arena& arena, const format::ModelHeader& header,
                         const SessionOptions& options, const KvCache& cache, Context& context)
    : header_(&header), context_(&context), options_(options), cache_(cache) {
  hidden_padded_ = pad_lanes(header.hidden_size);
  q_rows_ = header.head_count * header.head_dim;
  q_rows_padded_ = pad_lanes(q_rows_);
  kv_rows_ = header.kv_head_count * header.head_dim;
  kv_rows_padded_ = pad_lanes(kv_rows_);
  intermediate_padded_ = pad_lanes(header.intermediate_size);
  head_dim_padded_ = pad_lanes(header.head_dim);
  width_max_ = max2(max2(hidden_padded_, q_rows_padded_), intermediate_padded_);
  code_stride_ = (size_t{width_max_} + 63) / 64 * 64;
  qkv_stride_ = q_rows_padded_ + 2 * size_t{kv_rows_padded_};
  angle_stride_ = pad_lanes(header.head_dim / 2);

  // Not a power of two: else the rows would share the sets of the caches.
  score_stride_ = pad_lanes(options.context) + kLanes;
  score_rows_ = score_rows(header.head_count / header.kv_head_count, options, score_stride_ * 4);
  scratch_stride_ =
      max2(max2(width_max_, options.prefill_chunk * kTileRows), score_rows_ * head_dim_padded_);

  const size_t chunk = options.prefill_chunk;
  const size_t threads = options.threads;
  // Where a section works redundantly (one token), every thread has a slot of its own; where it is
  // divided, slot = token.
  const size_t slots = max2(options.prefill_chunk, options.threads);
  x_ = arena.take<float>(chunk * hidden_padded_);
  const size_t of_layers = arena.used();
  codes_ = arena.take<int8_t>(slots * code_stride_);
  sums_ = arena.take<int32_t>(slots);
  scales_ = arena.take<float>(slots);
  scratch_ = arena.take<float>(threads * scratch_stride_);
  multipliers_ = arena.take<float>(threads * pad_lanes(options.prefill_chunk));
  scores_ = arena.take<float>(threads * score_rows_ * score_stride_);
  sin_ = arena.take<float>(chunk * angle_stride_);
  cos_ = arena.take<float>(chunk * angle_stride_);
  // A layer's two halves, and then the head, begin where the one before has ended.
  const size_t of_attention = arena.used();
  qkv_ = arena.take<float>(chunk * qkv_stride_);
  q_rotated_ = arena.take<float>(chunk * header.head_count * head_dim_padded_);
  arena.share_from(of_attention);
  gate_ = arena.take<float>(chunk * intermediate_padded_);
  arena.share_from(of_layers);
  head_ = Head(arena, header, options.threads, options.head, context);
  arena.end_sharing();
}

Error Transformer::forward(std::span<const uint32_t> ids, uint32_t position, LogitsMode mode) {
  ENGINE_CHECK(!ids.empty() && ids.size() <= options_.prefill_chunk);
  if (position > options_.context || ids.size() > options_.context - position) {
    return Error{Status::kContextOverflow, "context", position, position + ids.size(),
                 options_.context};
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= header_->vocab_size) {
      return Error{Status::kTokenRange, "token", position + i, ids[i], header_->vocab_size};
    }
  }
  token_count_ = static_cast<uint32_t>(ids.size());
  position_ = position;
  mode_ = mode;
  ids_ = ids;
  if (token_count_ == 1) embed(0);
  context_->team.run([](void* self, uint32_t t) { static_cast<Transformer*>(self)->work(t); },
                     this);
  return context_->leaves.error();
}

void Transformer::embed(uint32_t token_index) {
  const uint32_t id = ids_[token_index];
  float* x = x_.data() + size_t{token_index} * hidden_padded_;
  const format::Table& table = context_->model.embedding;
  if (table.kind == format::kF32Rows) {
    const uint8_t* values = table.data + size_t{id} * hidden_padded_ * 4;
    context_->leaves.need(values, size_t{hidden_padded_} * 4);
    std::memcpy(x, values, size_t{hidden_padded_} * 4);
    return;
  }
  // Two columns in a byte: of the high plane eight columns of a row in each block of 64 bytes, of
  // the low plane 128.
  const uint8_t* high = table.data + size_t{id / kTileRows} * kTileRows * hidden_padded_ / 2 +
                        size_t{id % kTileRows} * 4;
  const uint8_t* low = table.low + id * low_row_bytes(hidden_padded_);
  context_->leaves.need(high, size_t{kTileRows} * hidden_padded_ / 2 - size_t{id % kTileRows} * 4);
  context_->leaves.need(low, low_row_bytes(hidden_padded_));
  const float scale = table.row_scales[id];
  for (uint32_t i = 0; i < hidden_padded_; ++i) {
    const int upper = high[size_t{i / 8} * 64 + i % 4] >> (i / 4 % 2 * 4) & 15;
    const int lower = low[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
    x[i] = static_cast<float>(16 * upper + lower - 128) * scale;
  }
}

void Transformer::work(uint32_t thread) {
  const Range tokens = context_->team.share(token_count_, thread);
  for (uint32_t t = tokens.begin; t < tokens.end; ++t) {
    // No other thread reads this token's x before the next barrier: quantize_tokens shares alike.
    if (token_count_ > 1) embed(t);
    kernels().rope_angles(position_ + t, context_->model.rope_inv_freq, angle_stride_,
                          sin_.data() + t * angle_stride_, cos_.data() + t * angle_stride_);
  }
  for (uint32_t i = 0; i < header_->layer_count; ++i) {
    attention_block(context_->model.layers[i], i, thread);
    feed_forward_block(context_->model.layers[i], thread);
  }
  if (mode_ == LogitsMode::kChoice) head_.compute(state(token_count_ - 1), thread);
}

/// Codes of all tokens of the call for the next matrix, through a norm where there is one. One
/// token: every thread computes it for itself, which costs less than waiting for another's result.
void Transformer::quantize_tokens(const float* x, size_t stride, const float* norm, uint32_t width,
                                  uint32_t thread) {
  const bool redundant = token_count_ == 1;
  const Range tokens = redundant ? Range{0, 1} : context_->team.share(token_count_, thread);
  const uint32_t width_padded = pad_lanes(width);
  float* normed = scratch(thread);
  for (uint32_t t = tokens.begin; t < tokens.end; ++t) {
    const uint32_t slot = redundant ? thread : t;
    const float* source = x + t * stride;
    if (norm != nullptr) {
      kernels().rms_norm(source, norm, width, width_padded, header_->norm_eps, normed);
      source = normed;
    }
    scales_[slot] = kernels().quantize_int8(source, width_padded,
                                            codes_.data() + slot * code_stride_, &sums_[slot]);
  }
  if (!redundant) context_->team.barrier(thread);
}

/// Rows of `tiles` of one matrix for all tokens, from the codes of quantize_tokens; `y` is the
/// place of the first of them.
void Transformer::multiply(const format::Matrix& matrix, Range tiles, float* y, size_t y_stride,
                           uint32_t thread) {
  const size_t tile_bytes = size_t{kTileRows} * matrix.cols_padded() / 4;
  const uint32_t slot = token_count_ == 1 ? thread : 0;
  float* multipliers = multipliers_.data() + size_t{thread} * pad_lanes(options_.prefill_chunk);
  for (uint32_t t = 0; t < token_count_; ++t) multipliers[t] = matrix.scale / scales_[slot + t];
  const kernels::Int8Tokens x{codes_.data() + slot * code_stride_, code_stride_,
                              sums_.data() + slot, multipliers, token_count_};
  kernels().ternary_matmul(
      {matrix.weights + tiles.begin * tile_bytes, matrix.cols_padded(), 0, tiles.end - tiles.begin},
      x, y, y_stride);
}

/// Takes from the front of `left` the tiles whose results the scratch holds.
runtime::Range Transformer::take_piece(Range* left) const {
  const uint32_t fit = scratch_stride_ / kTileRows / token_count_;
  const Range piece{left->begin, min2(left->end, left->begin + fit)};
  left->begin = piece.end;
  return piece;
}

/// x += matrix · codes, each thread its own rows.
void Transformer::multiply_and_add(const format::Matrix& matrix, uint32_t thread) {
  float* delta = scratch(thread);
  for (Range left = context_->team.share(matrix.tile_count(), thread); left.begin < left.end;) {
    const Range tiles = take_piece(&left);
    const uint32_t rows = (tiles.end - tiles.begin) * kTileRows;
    multiply(matrix, tiles, delta, rows, thread);
    for (uint32_t t = 0; t < token_count_; ++t) {
      float* x = x_.data() + size_t{t} * hidden_padded_ + size_t{tiles.begin} * kTileRows;
      kernels().add_in_place(x, delta + size_t{t} * rows, rows);
    }
  }
  context_->team.barrier(thread);
}

void Transformer::attention_block(const format::Layer& layer, uint32_t layer_index,
                                  uint32_t thread) {
  quantize_tokens(x_.data(), hidden_padded_, layer.input_norm, header_->hidden_size, thread);
  float* y = qkv_.data();
  for (const format::Matrix* matrix : {&layer.q, &layer.k, &layer.v}) {
    const Range tiles = context_->team.share(matrix->tile_count(), thread);
    multiply(*matrix, tiles, y + size_t{tiles.begin} * kTileRows, qkv_stride_, thread);
    y += matrix->rows_padded();
  }
  context_->team.barrier(thread);
  rotate_and_store(layer_index, thread);
  context_->team.barrier(thread);
  attend(layer_index, thread);
  context_->team.barrier(thread);
  quantize_tokens(attended(0), q_rows_padded_, layer.attn_sub_norm, q_rows_, thread);
  multiply_and_add(layer.o, thread);
}

/// RoPE of every head of q and k; k and v go to their rows of the cache.
void Transformer::rotate_and_store(uint32_t layer_index, uint32_t thread) {
  const uint32_t dim = header_->head_dim;
  const uint32_t heads = header_->head_count + header_->kv_head_count;
  const Range items = context_->team.share(token_count_ * heads, thread);
  float* row = scratch(thread);  // each row passes through it, padded
  for (uint32_t item = items.begin; item < items.end; ++item) {
    const uint32_t t = item / heads;
    const uint32_t head = item % heads;
    const float* qkv = qkv_.data() + t * qkv_stride_;
    const float* sin = sin_.data() + t * angle_stride_;
    const float* cos = cos_.data() + t * angle_stride_;
    if (head < header_->head_count) {
      float* q = q_rotated_.data() + (size_t{t} * header_->head_count + head) * head_dim_padded_;
      kernels().rope(qkv + size_t{head} * dim, sin, cos, dim, q);
      continue;
    }
    const KvCache::Head place{layer_index, head - header_->head_count};
    const float* k = qkv + q_rows_padded_ + size_t{place.kv_head} * dim;
    kernels().rope(k, sin, cos, dim, row);
    cache_.store(kernels(), KvCache::kKeys, place, position_ + t, row);
    std::memcpy(row, k + kv_rows_padded_, size_t{dim} * 4);  // the padding is zero from the rope
    cache_.store(kernels(), KvCache::kValues, place, position_ + t, row);
  }
}

/// Divides (kv head, block of tokens, head of the group), in this order, between the threads; what
/// a thread has of a block it computes in one call.
void Transformer::attend(uint32_t layer_index, uint32_t thread) {
  const uint32_t dim = header_->head_dim;
  const uint32_t group = header_->head_count / header_->kv_head_count;
  const uint32_t block_tokens = max2(1, score_rows_ / group);
  const uint32_t blocks = (token_count_ + block_tokens - 1) / block_tokens;
  const kernels::AttentionRows rows{scores_.data() + size_t{thread} * score_rows_ * score_stride_,
                                    score_stride_, scratch(thread)};
  const Range items = context_->team.share(header_->head_count * blocks, thread);
  for (uint32_t item = items.begin; item < items.end;) {
    const uint32_t block = item / group % blocks;
    const uint32_t kv_head = item / group / blocks;
    const uint32_t head = kv_head * group + item % group;
    const uint32_t first = block * block_tokens;
    const uint32_t tokens = min2(block_tokens, token_count_ - first);
    const uint32_t heads = min2(min2(group - item % group, items.end - item), score_rows_ / tokens);
    const float* q =
        q_rotated_.data() + (size_t{first} * header_->head_count + head) * head_dim_padded_;
    cache_.attend(kernels(), {layer_index, kv_head},
                  {q, size_t{header_->head_count} * head_dim_padded_, heads, tokens,
                   position_ + first + 1, head_dim_padded_, header_->attention_scale},
                  rows);
    for (uint32_t row = 0; row < heads * tokens; ++row) {
      const uint32_t to_head = head + row % heads;
      float* to = attended(first + row / heads);
      std::memcpy(to + size_t{to_head} * dim, rows.out + size_t{row} * head_dim_padded_,
                  size_t{dim} * 4);
      if (to_head > 0) continue;
      std::memset(to + q_rows_, 0, size_t{q_rows_padded_ - q_rows_} * 4);
    }
    item += heads;
  }
}

void Transformer::feed_forward_block(const format::Layer& layer, uint32_t thread) {
  quantize_tokens(x_.data(), hidden_padded_, layer.post_attention_norm, header_->hidden_size,
                  thread);
  const kernels::Gate activation =
      header_->activation == format::kRelu2 ? kernels().relu2_gate : kernels().silu_gate;
  float* up = scratch(thread);
  for (Range left = context_->team.share(layer.gate.tile_count(), thread); left.begin < left.end;) {
    const Range tiles = take_piece(&left);
    const uint32_t rows = (tiles.end - tiles.begin) * kTileRows;
    float* gate = gate_.data() + size_t{tiles.begin} * kTileRows;
    multiply(layer.gate, tiles, gate, intermediate_padded_, thread);
    multiply(layer.up, tiles, up, rows, thread);
    for (uint32_t t = 0; t < token_count_; ++t, gate += intermediate_padded_) {
      activation(gate, up + size_t{t} * rows, rows, gate);
    }
  }
  context_->team.barrier(thread);
  quantize_tokens(gate_.data(), intermediate_padded_, layer.ffn_sub_norm,
                  header_->intermediate_size, thread);
  multiply_and_add(layer.down, thread);
}

}  // namespace bitnet::model
