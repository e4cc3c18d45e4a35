// The leaves of a model.bin held against their digests (docs/formats/model.md, Digests).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "crypto/leaf_digests.h"
#include "format/model_file.h"

namespace bitnet::format {

/// The leaves of a file that has passed check_model_header, which holds the digests against the
/// root. Keeps nothing, so any number of threads may ask.
class Leaves {
 public:
  Leaves() = default;
  Leaves(std::span<const uint8_t> file, const crypto::LeafHash& hash)
      : header_(reinterpret_cast<const ModelHeader*>(file.data())), hash_(&hash) {}

  uint64_t count() const { return header_->leaf_count; }
  /// The first leaf of [begin, end) that does not match its digest; `end` if all do.
  uint64_t first_changed(uint64_t begin, uint64_t end) const;
  /// What is told of a leaf that does not match: kModelLeaf with its number and its first byte.
  Error changed(uint64_t leaf) const;

  /// The leaves [begin, end) that hold some bytes of the file, which lie between data_offset and
  /// leaves_offset.
  struct Range {
    uint64_t begin;
    uint64_t end;
  };
  Range leaves_of(const void* first, size_t bytes) const;

 private:
  const uint8_t* data() const {
    return reinterpret_cast<const uint8_t*>(header_) + header_->data_offset;
  }

  const ModelHeader* header_ = nullptr;
  const crypto::LeafHash* hash_ = nullptr;
};

}  // namespace bitnet::format
