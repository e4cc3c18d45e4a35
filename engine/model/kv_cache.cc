// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

namespace bitnet::model {

using format::KvCacheKind;

namespace {

size_t element_bytes(KvCacheKind kind) {
  return kind == KvCacheKind::kF32   ? sizeof(float)
         : kind == KvCacheKind::kF16 ? sizeof(uint16_t)
                                     : sizeof(int8_t);
}

/// Positions whose values are one block: a multiple of those of a block of keys.
uint32_t value_block(KvCacheKind kind) {
  return kind == KvCacheKind::kInt8 ? kernels::kValueBlock : kernels::kFloatValueBlock;
}

}  // namespace

KvCache::KvCache(Arena& arena, const format::ModelHeader& header, uint32_t context,
                 KvCacheKind kind)
    : kind_(kind),
      kv_head_count_(header.kv_head_count),
      context_padded_((context + value_block(kind) - 1) / value_block(kind) * value_block(kind)),
      head_dim_padded_(pad_lanes(header.head_dim)) {
  const size_t row_count = size_t{header.layer_count} * kv_head_count_ * context_padded_;
  for (Rows& rows : rows_) {
    rows.data = arena.take<uint8_t>(row_count * head_dim_padded_ * element_bytes(kind));
    if (kind == KvCacheKind::kInt8) rows.scales = arena.take<float>(row_count);
  }
}

KvCache::Place KvCache::place(Part part, uint32_t position) const {
  const bool codes = kind_ == KvCacheKind::kInt8;
  const uint32_t positions = part == kKeys ? kLanes : value_block(kind_);
  const uint32_t inside = position % positions;
  const size_t block = size_t{position - inside} * head_dim_padded_;
  if (part == kKeys) {
    return codes ? Place{block + inside * 4, 4, 4 * kLanes, 1}
                 : Place{block + inside, kLanes, kLanes, head_dim_padded_};
  }
  return codes
             ? Place{block + inside / 4 * (4 * kLanes) + inside % 4, kLanes, kLanes * positions, 4}
             : Place{block + inside * kLanes, kLanes, kLanes * positions, 1};
}

template <typename Element>
void KvCache::store_row(Part part, Head head, uint32_t position, const Element* from) {
  const Place to = place(part, position);
  auto* unit = reinterpret_cast<Element*>(rows_[part].data.data()) +
               row_index(head, 0) * head_dim_padded_ + to.first;
  for (const Element* end = from + head_dim_padded_; from < end; from += to.unit) {
    for (uint32_t i = 0; i < to.unit; ++i) unit[i * to.step] = from[i];
    unit += to.stride;
  }
}

void KvCache::store(const kernels::KernelTable& kernels, Part part, Head head, uint32_t position,
                    const float* from) {
  alignas(64) uint16_t halves[kHeadDimMax];
  alignas(64) int8_t codes[kHeadDimMax];
  switch (kind_) {
    case KvCacheKind::kF32:
      return store_row(part, head, position, from);
    case KvCacheKind::kF16:
      kernels.store_f16(from, head_dim_padded_, halves);
      return store_row(part, head, position, halves);
    case KvCacheKind::kInt8:
      rows_[part].scales[row_index(head, position)] =
          kernels.store_int8(from, head_dim_padded_, codes);
      return store_row(part, head, position, codes);
  }
}

kernels::CacheRows KvCache::cache_rows(Part part, Head head) const {
  const Rows& rows = rows_[part];
  const size_t first = row_index(head, 0);
  return {rows.data.data() + first * head_dim_padded_ * element_bytes(kind_),
          rows.scales.empty() ? nullptr : &rows.scales[first]};
}

void KvCache::attend(const kernels::KernelTable& kernels, Head head,
                     const kernels::AttentionQueries& queries,
                     const kernels::AttentionRows& to) const {
  kernels.attention[static_cast<uint32_t>(kind_)](queries, cache_rows(kKeys, head),
                                                  cache_rows(kValues, head), to);
}

}  // namespace bitnet::model
