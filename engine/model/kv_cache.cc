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
      context_(context),
      head_dim_padded_(pad_lanes(header.head_dim)) {
  const size_t row_count = size_t{header.layer_count} * kv_head_count_ * context_;
  for (Rows& rows : rows_) {
    rows.data = arena.take<uint8_t>(row_count * head_dim_padded_ * element_bytes(kind));
    if (kind == KvCacheKind::kInt8) rows.scales = arena.take<float>(row_count);
  }
}

void KvCache::store(const kernels::KernelTable& kernels, Part part, Head head, uint32_t position,
                    const float* from) {
  switch (kind_) {
    case KvCacheKind::kF32:
      std::memcpy(row<float>(part, head, position), from, head_dim_padded_ * sizeof(float));
      return;
    case KvCacheKind::kF16:
      return kernels.store_f16(from, head_dim_padded_, row<uint16_t>(part, head, position));
    case KvCacheKind::kInt8:
      rows_[part].scales[row_index(head, position)] =
          kernels.store_int8(from, head_dim_padded_, row<int8_t>(part, head, position));
      return;
  }
}

kernels::Int8Rows KvCache::int8_rows(Part part, Head head) const {
  return {row<const int8_t>(part, head, 0), rows_[part].scales.data() + row_index(head, 0)};
}

void KvCache::attend(const kernels::KernelTable& kernels, Head head, uint32_t position_count,
                     const float* q, float scale, float* scores, float* out) const {
  switch (kind_) {
    case KvCacheKind::kF32:
      return kernels.attention(q, row<const float>(kKeys, head, 0),
                               row<const float>(kValues, head, 0), position_count, head_dim_padded_,
                               scale, scores, out);
    case KvCacheKind::kF16:
      return kernels.attention_f16(q, row<const uint16_t>(kKeys, head, 0),
                                   row<const uint16_t>(kValues, head, 0), position_count,
                                   head_dim_padded_, scale, scores, out);
    case KvCacheKind::kInt8:
      return kernels.attention_int8(q, int8_rows(kKeys, head), int8_rows(kValues, head),
                                    position_count, head_dim_padded_, scale, scores, out);
  }
}

}  // namespace bitnet::model
