// SPDX-License-Identifier: Apache-2.0
#include "format/model_file.h"

#include <bit>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/text.h"
#include "crypto/crypto.h"

namespace bitnet::format {
namespace {

bool all_zero(Text bytes) {
  uint8_t any = 0;
  for (const uint8_t byte : bytes) any |= byte;
  return any == 0;
}

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

/// A header field with its range; the offset is what an error names.
struct FieldRange {
  const char* name;
  size_t offset;
  uint32_t low;
  uint32_t high;
};

constexpr FieldRange kFieldRanges[] = {
    {"hidden_size", offsetof(ModelHeader, hidden_size), 1, kHiddenSizeMax},
    {"intermediate_size", offsetof(ModelHeader, intermediate_size), 1, kColsMax},
    {"layer_count", offsetof(ModelHeader, layer_count), 1, kLayerCountMax},
    {"head_count", offsetof(ModelHeader, head_count), 1, kHeadCountMax},
    {"kv_head_count", offsetof(ModelHeader, kv_head_count), 1, kHeadCountMax},
    {"head_dim", offsetof(ModelHeader, head_dim), 2, kHeadDimMax},
    {"vocab_size", offsetof(ModelHeader, vocab_size), 1, kVocabSizeMax},
    {"context_max", offsetof(ModelHeader, context_max), 1, kContextMax},
    {"activation", offsetof(ModelHeader, activation), kRelu2, kSilu},
    {"flags", offsetof(ModelHeader, flags), 0, kTiedHead | kAttnSubNorm | kFfnSubNorm},
    {"embedding_kind", offsetof(ModelHeader, embedding_kind), kInt8Rows, kF32Rows},
    {"head_kind", offsetof(ModelHeader, head_kind), kInt8Rows, kF32Rows},
    {"eos_count", offsetof(ModelHeader, eos_count), 0, kEosCountMax},
    {"leaf_bytes", offsetof(ModelHeader, leaf_bytes), kLeafBytes, kLeafBytes},
};

/// A header field that has to do with others: what is found there, what is told as the limit, and
/// whether it is right.
struct Field {
  const char* name;
  size_t offset;
  uint64_t found;
  uint64_t limit;
  bool right;
};

Error check_fields(std::span<const Field> fields) {
  for (const Field& field : fields) {
    if (field.right) continue;
    return Error{Status::kModelField, field.name, field.offset, field.found, field.limit};
  }
  return kNoError;
}

uint32_t tensor_count(const ModelHeader& h) {
  const uint32_t sub_norms = (h.flags & kAttnSubNorm ? 1u : 0u) + (h.flags & kFfnSubNorm ? 1u : 0u);
  return 3 + (h.flags & kTiedHead ? 0u : 1u) + h.layer_count * (9 + sub_norms);
}

Error check_geometry(const ModelHeader& h) {
  for (const FieldRange& range : kFieldRanges) {
    uint32_t value;
    std::memcpy(&value, reinterpret_cast<const uint8_t*>(&h) + range.offset, 4);
    const bool right = value >= range.low && value <= range.high;
    const uint32_t limit = value < range.low ? range.low : range.high;
    const Field field{range.name, range.offset, value, limit, right};
    BITNET_TRY(check_fields({&field, 1}));
  }
  const double attention_scale = 1.0 / __builtin_sqrt(static_cast<double>(h.head_dim));
  const Field fields[] = {
      {"kv_head_count", offsetof(ModelHeader, kv_head_count), h.kv_head_count, h.head_count,
       h.head_count % h.kv_head_count == 0},
      {"head_dim", offsetof(ModelHeader, head_dim), h.head_dim, kColsMax / h.head_count,
       h.head_dim % 2 == 0 && uint64_t{h.head_count} * h.head_dim <= kColsMax},
      {"norm_eps", offsetof(ModelHeader, norm_eps), 0, 1, h.norm_eps > 0.0f && h.norm_eps <= 1.0f},
      {"attention_scale", offsetof(ModelHeader, attention_scale), 0, 1,
       h.attention_scale == static_cast<float>(attention_scale)},
      {"head_kind", offsetof(ModelHeader, head_kind), h.head_kind, h.embedding_kind,
       (h.flags & kTiedHead) == 0 || h.head_kind == h.embedding_kind},
      {"bos_id", offsetof(ModelHeader, bos_id), h.bos_id, h.vocab_size,
       h.bos_id < h.vocab_size || h.bos_id == kNoToken},
  };
  BITNET_TRY(check_fields(fields));
  for (uint32_t i = 0; i < kEosCountMax; ++i) {
    const bool right = i < h.eos_count ? h.eos_ids[i] < h.vocab_size : h.eos_ids[i] == kNoToken;
    const size_t offset = offsetof(ModelHeader, eos_ids) + 4 * i;
    const Field field{"eos_ids", offset, h.eos_ids[i], h.vocab_size, right};
    BITNET_TRY(check_fields({&field, 1}));
  }
  return kNoError;
}

/// The sizes and offsets that follow from the geometry and the file's size. With the geometry in
/// range no sum here can overflow 64 bits, once data_bytes is right.
Error check_extent(const ModelHeader& h, size_t file_bytes) {
  if (h.file_bytes != file_bytes) {
    return Error{Status::kModelTruncated, "file_bytes", offsetof(ModelHeader, file_bytes),
                 file_bytes, h.file_bytes};
  }
  const uint64_t header_bytes =
      round_up(sizeof(ModelHeader) + sizeof(TensorEntry) * tensor_count(h), kPageBytes);
  const uint64_t data_end = header_bytes + h.data_bytes;
  const uint64_t leaf_count = (h.data_bytes + kLeafBytes - 1) / kLeafBytes;
  const uint64_t end = data_end + leaf_count * kDigestBytes;
  const Field fields[] = {
      {"data_bytes", offsetof(ModelHeader, data_bytes), h.data_bytes, file_bytes,
       h.data_bytes <= file_bytes && h.data_bytes % kPageBytes == 0},
      {"tensor_count", offsetof(ModelHeader, tensor_count), h.tensor_count, tensor_count(h),
       h.tensor_count == tensor_count(h)},
      {"header_bytes", offsetof(ModelHeader, header_bytes), h.header_bytes, header_bytes,
       h.header_bytes == header_bytes},
      {"data_offset", offsetof(ModelHeader, data_offset), h.data_offset, header_bytes,
       h.data_offset == header_bytes},
      {"leaves_offset", offsetof(ModelHeader, leaves_offset), h.leaves_offset, data_end,
       h.leaves_offset == data_end},
      {"leaf_count", offsetof(ModelHeader, leaf_count), h.leaf_count, leaf_count,
       h.leaf_count == leaf_count},
      {"file_bytes", offsetof(ModelHeader, file_bytes), h.file_bytes, end, h.file_bytes == end},
  };
  return check_fields(fields);
}

/// root = SHA3-384(0x01, header with the root field zero, leaf digests); docs/formats/model.md,
/// Digests.
bool root_matches(std::span<const uint8_t> file, const ModelHeader& h) {
  constexpr uint8_t kRootDomain[] = {1};
  constexpr uint8_t kZero[kDigestBytes] = {};
  constexpr size_t kAfterRoot = offsetof(ModelHeader, root) + kDigestBytes;
  Sha3 hash;
  hash.add(kRootDomain).add(file.first(offsetof(ModelHeader, root))).add(kZero);
  hash.add(file.subspan(kAfterRoot, h.header_bytes - kAfterRoot));
  hash.add(file.subspan(h.leaves_offset, h.leaf_count * kDigestBytes));
  return same(hash.digest(), h.root);
}

}  // namespace

Result<const ModelHeader*> check_model_header(std::span<const uint8_t> file) {
  if (file.size() < sizeof(ModelHeader)) {
    return Error{Status::kModelTruncated, "header", 0, file.size(), sizeof(ModelHeader)};
  }
  ENGINE_CHECK(reinterpret_cast<uintptr_t>(file.data()) % 64 == 0);
  const auto& h = *reinterpret_cast<const ModelHeader*>(file.data());
  if (std::memcmp(h.magic, kModelMagic, sizeof kModelMagic) != 0)
    return Error{Status::kModelMagic, "magic"};
  if (h.version != kModelVersion) {
    return Error{Status::kModelVersion, "version", offsetof(ModelHeader, version), h.version,
                 kModelVersion};
  }
  BITNET_TRY(check_geometry(h));
  BITNET_TRY(check_extent(h, file.size()));
  for (const Text reserved : {Text(h.reserved_a), Text(h.reserved_b)}) {
    const auto where = static_cast<uint64_t>(reserved.data() - file.data());
    if (!all_zero(reserved)) return Error{Status::kModelReserved, "header", where};
  }
  if (!root_matches(file, h))
    return Error{Status::kModelDigest, "header", offsetof(ModelHeader, root)};
  return &h;
}

namespace {

/// Walks the tensors in the order of the format and holds each against what the geometry gives.
class TensorWalk {
 public:
  explicit TensorWalk(std::span<const uint8_t> file)
      : file_(file),
        header_(*reinterpret_cast<const ModelHeader*>(file.data())),
        offset_(header_.data_offset) {}

  /// Padding included, every value is finite and within [low, high].
  const float* vector(Role role, uint32_t layer, uint32_t cols, float low = -kLargest,
                      float high = kLargest) {
    const TensorEntry* entry = next(role, layer, kF32Rows, 1, cols, 4ull * pad_lanes(cols));
    if (entry == nullptr) return nullptr;
    const auto* values = reinterpret_cast<const float*>(file_.data() + entry->offset);
    check_values(values, pad_lanes(cols), low, high);
    return values;
  }

  Matrix matrix(Role role, uint32_t layer, uint32_t rows, uint32_t cols) {
    const uint64_t bytes = uint64_t{pad_lanes(rows)} * pad_lanes(cols) / 4;
    const TensorEntry* entry = next(role, layer, kTernary, rows, cols, bytes);
    if (entry == nullptr) return {};
    if (!__builtin_isfinite(entry->scale) || !(entry->scale > 0.0f)) fail(0);
    return {file_.data() + entry->offset, rows, cols, entry->scale};
  }

  Table table(Role role, uint32_t kind) {
    const uint32_t rows = header_.vocab_size;
    const uint32_t cols = header_.hidden_size;
    const uint64_t high_bytes = uint64_t{pad_lanes(rows)} * pad_lanes(cols) / 2;
    const uint64_t low_bytes = pad_lanes(rows) * low_row_bytes(cols);
    const uint64_t bytes = kind == kInt8Rows ? high_bytes + low_bytes + 8ull * pad_lanes(rows)
                                             : 4ull * rows * pad_lanes(cols);
    const TensorEntry* entry = next(role, kNoLayer, kind, rows, cols, bytes);
    if (entry == nullptr) return {};
    const uint8_t* data = file_.data() + entry->offset;
    if (kind == kF32Rows) return {kind, rows, cols, data, nullptr, nullptr, 0.0f, nullptr};
    const auto* scales = reinterpret_cast<const float*>(data + high_bytes + low_bytes);
    check_values(scales, 2ull * pad_lanes(rows), 0.0f, kLargest);
    float largest = 0.0f;
    for (uint32_t i = 0; i < rows; ++i) largest = scales[i] > largest ? scales[i] : largest;
    return {kind, rows, cols, data, data + high_bytes, scales, largest, scales + pad_lanes(rows)};
  }

  /// After the last tensor: the data ends where the header says, the table's rest is zero.
  Error finish() {
    if (failed(error_)) return error_;
    const uint64_t table_end = sizeof(ModelHeader) + sizeof(TensorEntry) * header_.tensor_count;
    if (!all_zero(file_.subspan(table_end, header_.header_bytes - table_end))) {
      return Error{Status::kModelReserved, "tensor table", table_end};
    }
    if (offset_ != header_.leaves_offset) {
      return Error{Status::kModelField, "data_bytes", offsetof(ModelHeader, data_bytes),
                   header_.data_bytes, offset_ - header_.data_offset};
    }
    return kNoError;
  }

 private:
  const TensorEntry* next(Role role, uint32_t layer, uint32_t kind, uint32_t rows, uint32_t cols,
                          uint64_t bytes) {
    if (failed(error_)) return nullptr;
    const uint32_t index = index_++;
    ENGINE_CHECK(index < header_.tensor_count);
    const auto& entry =
        reinterpret_cast<const TensorEntry*>(file_.data() + sizeof(ModelHeader))[index];
    const bool right = entry.role == role && entry.layer == layer && entry.kind == kind &&
                       entry.rows == rows && entry.cols == cols && entry.offset == offset_ &&
                       entry.bytes == bytes &&
                       (kind == kTernary || std::bit_cast<uint32_t>(entry.scale) == 0);
    if (!right || bytes > header_.leaves_offset - offset_) {
      error_ = Error{Status::kModelTensor, "tensor", index, entry.role, role};
      return nullptr;
    }
    if (!all_zero(entry.reserved)) {
      error_ = Error{Status::kModelReserved, "tensor", index};
      return nullptr;
    }
    offset_ += round_up(bytes, kPageBytes);
    return &entry;
  }

  void check_values(const float* values, size_t count, float low, float high) {
    for (size_t i = 0; i < count; ++i) {
      if (!(values[i] >= low && values[i] <= high)) return fail(i);
    }
  }

  void fail(uint64_t element) {
    if (!failed(error_)) error_ = Error{Status::kModelValue, "tensor", index_ - 1, element, 0};
  }

  static constexpr float kLargest = std::numeric_limits<float>::max();
  std::span<const uint8_t> file_;
  const ModelHeader& header_;
  uint64_t offset_;
  uint32_t index_ = 0;
  Error error_;
};

Layer walk_layer(TensorWalk& walk, const ModelHeader& h, uint32_t index) {
  const uint32_t q_rows = h.head_count * h.head_dim;
  const uint32_t kv_rows = h.kv_head_count * h.head_dim;
  Layer layer{};
  layer.input_norm = walk.vector(kInputNorm, index, h.hidden_size);
  layer.q = walk.matrix(kQ, index, q_rows, h.hidden_size);
  layer.k = walk.matrix(kK, index, kv_rows, h.hidden_size);
  layer.v = walk.matrix(kV, index, kv_rows, h.hidden_size);
  if (h.flags & kAttnSubNorm) layer.attn_sub_norm = walk.vector(kAttnSubNormRole, index, q_rows);
  layer.o = walk.matrix(kO, index, h.hidden_size, q_rows);
  layer.post_attention_norm = walk.vector(kPostAttentionNorm, index, h.hidden_size);
  layer.gate = walk.matrix(kGate, index, h.intermediate_size, h.hidden_size);
  layer.up = walk.matrix(kUp, index, h.intermediate_size, h.hidden_size);
  if (h.flags & kFfnSubNorm)
    layer.ffn_sub_norm = walk.vector(kFfnSubNormRole, index, h.intermediate_size);
  layer.down = walk.matrix(kDown, index, h.hidden_size, h.intermediate_size);
  return layer;
}

}  // namespace

Result<Model> load_model(std::span<const uint8_t> file, std::span<Layer> layers) {
  const auto& h = *reinterpret_cast<const ModelHeader*>(file.data());
  ENGINE_CHECK(layers.size() == h.layer_count);
  TensorWalk walk(file);
  Model model{};
  model.header = &h;
  model.embedding = walk.table(kEmbedding, h.embedding_kind);
  // The angle of RoPE is position * frequency: frequencies up to 1 keep it below 2^20, where it is
  // defined.
  model.rope_inv_freq = walk.vector(kRopeInvFreq, kNoLayer, h.head_dim / 2, 0.0f, 1.0f);
  for (uint32_t i = 0; i < h.layer_count; ++i) layers[i] = walk_layer(walk, h, i);
  model.layers = layers;
  model.final_norm = walk.vector(kFinalNorm, kNoLayer, h.hidden_size);
  model.head = (h.flags & kTiedHead) ? model.embedding : walk.table(kHead, h.head_kind);
  BITNET_TRY(walk.finish());
  return model;
}

}  // namespace bitnet::format
