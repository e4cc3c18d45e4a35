// model.bin written from docs/formats/model.md by another hand than its reader's: what a recipe
// leaves open, and what the reader is held against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "crypto/crypto.h"
#include "format/model_file.h"
#include "quick_digest.h"
#include "walk.h"

namespace recipe {

using bitnet::format::ModelHeader;
using bitnet::format::TensorEntry;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLeaf = 65536;
constexpr uint64_t kPagesMax = 96;
// As many as have a page for each tensor.
constexpr uint32_t kLayersMax = 10;
constexpr uint32_t kTensorsMax = 4 + 11 * kLayersMax;
constexpr uint64_t kLeavesMax = kPagesMax * kPage / kLeaf;
constexpr uint32_t kNone = 0xffffffff;

inline uint64_t rounded(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

/// The tensors that a geometry gives, and the pages of their data.
struct Shapes {
  TensorEntry rows[kTensorsMax];
  uint32_t count = 0;
  uint64_t pages = 0;

  uint64_t header_bytes() const { return rounded(512 + 64 * count, kPage); }

  void add(uint32_t role, uint32_t layer, uint32_t kind, uint64_t row_count, uint64_t cols) {
    const uint64_t wide = rounded(cols, 16);
    const uint64_t high = rounded(row_count, 16);
    TensorEntry& row = rows[count++];
    row = {};
    row.role = role;
    row.layer = layer;
    row.kind = kind;
    row.rows = static_cast<uint32_t>(row_count);
    row.cols = static_cast<uint32_t>(cols);
    row.scale = kind == 1 ? 0.25f : 0.0f;
    row.offset = pages * kPage;  // from the start of the data, until all are known
    row.bytes = kind == 1   ? high * wide / 4
                : kind == 3 ? high * (wide / 2 + 64 * (rounded(cols, 128) / 128) + 8)
                            : 4 * row_count * wide;
    // What is larger than any file here is only large.
    pages += row.bytes > kPagesMax * kPage ? kPagesMax + 1 : rounded(row.bytes, kPage) / kPage;
  }
};

/// False where there are more layers than a file here has room for.
inline bool find_shapes(const ModelHeader& h, Shapes* out) {
  out->count = 0;
  out->pages = 0;
  if (h.layer_count > kLayersMax) return false;
  const uint64_t heads = uint64_t{h.head_count} * h.head_dim;
  const uint64_t kv = uint64_t{h.kv_head_count} * h.head_dim;
  out->add(1, kNone, h.embedding_kind, h.vocab_size, h.hidden_size);
  out->add(2, kNone, 4, 1, h.head_dim / 2);
  for (uint32_t layer = 0; layer < h.layer_count; ++layer) {
    out->add(3, layer, 4, 1, h.hidden_size);
    out->add(4, layer, 1, heads, h.hidden_size);
    out->add(5, layer, 1, kv, h.hidden_size);
    out->add(6, layer, 1, kv, h.hidden_size);
    if (h.flags & 2) out->add(7, layer, 4, 1, heads);
    out->add(8, layer, 1, h.hidden_size, heads);
    out->add(9, layer, 4, 1, h.hidden_size);
    out->add(10, layer, 1, h.intermediate_size, h.hidden_size);
    out->add(11, layer, 1, h.intermediate_size, h.hidden_size);
    if (h.flags & 4) out->add(12, layer, 4, 1, h.intermediate_size);
    out->add(13, layer, 1, h.hidden_size, h.intermediate_size);
  }
  out->add(14, kNone, 4, 1, h.hidden_size);
  if ((h.flags & 1) == 0) out->add(15, kNone, h.head_kind, h.vocab_size, h.hidden_size);
  for (uint32_t i = 0; i < out->count; ++i) out->rows[i].offset += out->header_bytes();
  return true;
}

/// What follows from the geometry, and what is the same in every file.
inline void fill_sizes(ModelHeader* h, const Shapes& shapes, uint64_t data_bytes) {
  std::memcpy(h->magic, "BNAGMODL", 8);
  h->version = 1;
  h->leaf_bytes = kLeaf;
  h->attention_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(h->head_dim)));
  h->tensor_count = shapes.count;
  h->header_bytes = static_cast<uint32_t>(shapes.header_bytes());
  h->data_offset = h->header_bytes;
  h->data_bytes = data_bytes;
  h->leaves_offset = h->data_offset + h->data_bytes;
  h->leaf_count = rounded(h->data_bytes, kLeaf) / kLeaf;
  h->file_bytes = h->leaves_offset + 48 * h->leaf_count;
}

/// Over header and leaf digests, which the caller has found to be within the file.
inline void hash_root(const uint8_t* file, uint64_t header_bytes, uint64_t leaves_offset,
                      uint64_t leaf_count, uint8_t* root) {
  static const uint8_t kZero[48] = {};
  const uint8_t domain = 1;
  BitnetDigestState state;
  bitnet_sha3_384_init(&state);
  bitnet_sha3_384_update(&state, &domain, 1);
  bitnet_sha3_384_update(&state, file, 216);
  bitnet_sha3_384_update(&state, kZero, 48);
  bitnet_sha3_384_update(&state, file + 264, header_bytes - 264);
  bitnet_sha3_384_update(&state, file + leaves_offset, 48 * leaf_count);
  bitnet_sha3_384_final(&state, root);
}

inline bool between(uint64_t value, uint64_t low, uint64_t high) {
  return value >= low && value <= high;
}

/// The table "Header" of the page, down to eos_ids.
inline bool geometry_right(const ModelHeader& h) {
  bool right =
      std::memcmp(h.magic, "BNAGMODL", 8) == 0 && h.version == 1 &&
      between(h.hidden_size, 1, 65536) && between(h.intermediate_size, 1, 131072) &&
      between(h.layer_count, 1, 1024) && between(h.head_count, 1, 1024) &&
      between(h.kv_head_count, 1, 1024) && h.head_count % h.kv_head_count == 0 &&
      between(h.head_dim, 2, 1024) && h.head_dim % 2 == 0 &&
      uint64_t{h.head_count} * h.head_dim <= 131072 && between(h.vocab_size, 1, 1048576) &&
      between(h.context_max, 1, 1048576) && between(h.activation, 1, 2) && h.flags <= 7 &&
      h.norm_eps > 0 && h.norm_eps <= 1 &&
      h.attention_scale == static_cast<float>(1 / std::sqrt(static_cast<double>(h.head_dim))) &&
      between(h.embedding_kind, 3, 4) && between(h.head_kind, 3, 4) &&
      ((h.flags & 1) == 0 || h.head_kind == h.embedding_kind) &&
      (h.bos_id < h.vocab_size || h.bos_id == kNone) && h.eos_count <= 8 && h.leaf_bytes == kLeaf;
  for (uint32_t i = 0; i < 8 && right; ++i) {
    right = i < h.eos_count ? h.eos_ids[i] < h.vocab_size : h.eos_ids[i] == kNone;
  }
  return right;
}

/// Whether header, sizes and root are as the page says. The table is looked at by table_right.
inline bool header_right(const uint8_t* file, uint64_t size, const Shapes& shapes) {
  ModelHeader h;
  std::memcpy(&h, file, sizeof h);
  if (shapes.count == 0 || !geometry_right(h) || h.data_bytes % kPage != 0) return false;
  if (h.data_bytes > size) return false;
  ModelHeader expected = h;
  fill_sizes(&expected, shapes, h.data_bytes);
  if (expected.file_bytes != size) return false;
  std::memset(expected.reserved_a, 0, sizeof expected.reserved_a);
  std::memset(expected.reserved_b, 0, sizeof expected.reserved_b);
  hash_root(file, expected.header_bytes, expected.leaves_offset, expected.leaf_count,
            expected.root);
  return std::memcmp(&expected, &h, sizeof h) == 0;
}

FUZZ_UNSEEN inline bool values_right(const uint8_t* first, uint64_t count, float low, float high) {
  for (uint64_t i = 0; i < count; ++i) {
    float value;
    std::memcpy(&value, first + 4 * i, 4);
    if (!(std::isfinite(value) && value >= low && value <= high)) return false;
  }
  return true;
}

/// Whether the table is what the geometry gives and the values that are looked at are in range, of
/// a file that has passed header_right.
inline bool table_right(const uint8_t* file, const Shapes& shapes, uint64_t data_bytes) {
  if (shapes.pages * kPage != data_bytes) return false;
  for (uint32_t i = 0; i < shapes.count; ++i) {
    TensorEntry expected = shapes.rows[i], found;
    std::memcpy(&found, file + 512 + 64 * i, 64);
    if (expected.kind == 1) {
      if (!(std::isfinite(found.scale) && found.scale > 0)) return false;
      expected.scale = found.scale;
    }
    if (std::memcmp(&expected, &found, 64) != 0) return false;
    const uint64_t high = rounded(expected.rows, 16);
    const uint8_t* data = file + expected.offset;
    const bool vector = expected.role != 1 && expected.role != 15 && expected.kind == 4;
    if (vector && !values_right(data, expected.bytes / 4, expected.role == 2 ? 0.0f : -HUGE_VALF,
                                expected.role == 2 ? 1.0f : HUGE_VALF))
      return false;
    if (expected.kind == 3 &&
        !values_right(data + expected.bytes - 8 * high, 2 * high, 0.0f, HUGE_VALF))
      return false;
  }
  for (uint64_t i = 512 + 64 * shapes.count; i < shapes.header_bytes(); ++i) {
    if (file[i] != 0) return false;
  }
  return true;
}

}  // namespace recipe
