// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <cstring>

namespace bitnet::model {

using format::KvCacheKind;

namespace {

size_t element_bytes(KvCacheKind kind) {
  return kind == KvCacheKind::kF32   ? sizeof(float)
         : kind == KvCacheKind::kF16 ? sizeof(uint16_t)
                                     : sizeof(int8_t);
}

}  // namespace

KvCache::KvCache(Arena& arena, const format::ModelHeader& header, uint32_t context,
                 KvCacheKind kind)
    : kind_(kind),
      kv_head_count_(header.kv_head_count),
      context_padded_(pad_lanes(context)),
      head_dim_padded_(pad_lanes(header.head_dim)) {
  const size_t row_count = size_t{header.layer_count} * kv_head_count_ * context_padded_;
  for (Rows& rows : rows_) {
    rows.data = arena.take<uint8_t>(row_count * head_dim_padded_ * element_bytes(kind));
    if (kind == KvCacheKind::kInt8) rows.scales = arena.take<float>(row_count);
  }
}

template <typename Element>
void KvCache::store_row(Part part, Head head, uint32_t position, const Element* from) {
  Element* to = rows<Element>(part, head);
  if (part == kValues) {
    std::memcpy(to + size_t{position} * head_dim_padded_, from, head_dim_padded_ * sizeof(Element));
    return;
  }
  to += size_t{position / kLanes} * kLanes * head_dim_padded_ + position % kLanes;
  for (uint32_t i = 0; i < head_dim_padded_; ++i) to[size_t{i} * kLanes] = from[i];
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

kernels::Int8Rows KvCache::int8_rows(Part part, Head head) const {
  return {rows<const int8_t>(part, head), rows_[part].scales.data() + row_index(head, 0)};
}

void KvCache::attend(const kernels::KernelTable& kernels, Head head,
                     const kernels::AttentionQueries& queries,
                     const kernels::AttentionRows& to) const {
  switch (kind_) {
    case KvCacheKind::kF32:
      return kernels.attention(queries, rows<const float>(kKeys, head),
                               rows<const float>(kValues, head), to);
    case KvCacheKind::kF16:
      return kernels.attention_f16(queries, rows<const uint16_t>(kKeys, head),
                                   rows<const uint16_t>(kValues, head), to);
    case KvCacheKind::kInt8:
      return kernels.attention_int8(queries, int8_rows(kKeys, head), int8_rows(kValues, head), to);
  }
}

}  // namespace bitnet::model
