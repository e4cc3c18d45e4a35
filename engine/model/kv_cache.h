// The keys and values of all positions so far, in one of three kinds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "format/config.h"
#include "format/model_file.h"
#include "kernels/table.h"

namespace bitnet::model {

/// Layout    [layer][kv_head] of keys and of values, one head as `KernelTable::attention`
///           has it. int8 has a float scale for each key and value,
///           [layer][kv_head][position]. Positions are padded to blocks of values.
/// Why       attention reads the keys and then the values of one head strictly forward, whatever it
///           keeps in registers: a lane of dot16, or a few columns, of all positions of a block.
/// Exact     f32 yes; the others are defined by docs/numerics.md, "The KV cache".
class KvCache {
 public:
  enum Part : uint32_t { kKeys = 0, kValues = 1 };
  /// The rows of one head of one layer.
  struct Head {
    uint32_t layer;
    uint32_t kv_head;
  };

  KvCache() = default;
  /// Takes memory for `context` positions.
  KvCache(Arena& arena, const format::ModelHeader& header, uint32_t context,
          format::KvCacheKind kind);

  /// Keeps `row`: float[head_dim_padded], 64-byte aligned, its padding +0.
  void store(const kernels::KernelTable& kernels, Part part, Head head, uint32_t position,
             const float* row);

  /// `KernelTable::attention` over one head.
  void attend(const kernels::KernelTable& kernels, Head head,
              const kernels::AttentionQueries& queries, const kernels::AttentionRows& rows) const;

 private:
  struct Rows {
    std::span<uint8_t> data;
    std::span<float> scales;  ///< int8 only
  };

  /// Index of a row in units of rows.
  size_t row_index(Head head, uint32_t position) const {
    return (size_t{head.layer} * kv_head_count_ + head.kv_head) * context_padded_ + position;
  }
  /// A row stands in units of elements: from `first` on, `stride` from one unit to the next and
  /// `step` from one element to the next.
  struct Place {
    size_t first;
    uint32_t unit;
    uint32_t stride;
    uint32_t step;
  };
  Place place(Part part, uint32_t position) const;
  template <typename Element>
  void store_row(Part part, Head head, uint32_t position, const Element* from);
  kernels::CacheRows cache_rows(Part part, Head head) const;

  format::KvCacheKind kind_ = format::KvCacheKind::kF32;
  uint32_t kv_head_count_ = 0;
  uint32_t context_padded_ = 0;
  uint32_t head_dim_padded_ = 0;
  Rows rows_[2];
};

}  // namespace bitnet::model
