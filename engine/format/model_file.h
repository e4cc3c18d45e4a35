// model.bin as bytes in memory: every field checked, nothing parsed, nothing copied.
// docs/formats/model.md is normative.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/limits.h"
#include "base/status.h"
#include "crypto/crypto.h"

namespace bitnet::format {

inline constexpr char kModelMagic[8] = {'B', 'N', 'A', 'G', 'M', 'O', 'D', 'L'};
inline constexpr uint32_t kModelVersion = 1;
inline constexpr uint32_t kPageBytes = 4096;
inline constexpr uint32_t kLeafBytes = 65536;
inline constexpr uint32_t kNoLayer = 0xffffffff;
inline constexpr uint32_t kNoToken = 0xffffffff;

/// The first 512 bytes of the file.
struct ModelHeader {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t file_bytes;
  uint32_t hidden_size;
  uint32_t intermediate_size;
  uint32_t layer_count;
  uint32_t head_count;
  uint32_t kv_head_count;
  uint32_t head_dim;
  uint32_t vocab_size;
  uint32_t context_max;
  uint32_t activation;
  uint32_t flags;
  float norm_eps;
  float attention_scale;
  uint32_t embedding_kind;
  uint32_t head_kind;
  uint32_t bos_id;
  uint32_t eos_count;
  uint32_t eos_ids[kEosCountMax];
  uint32_t tensor_count;
  uint32_t leaf_bytes;
  uint64_t data_offset;
  uint64_t data_bytes;
  uint64_t leaves_offset;
  uint64_t leaf_count;
  uint8_t reserved_a[8];
  uint8_t tokenizer_sha384[kDigestBytes];
  uint8_t root[kDigestBytes];
  uint8_t reserved_b[248];
};
static_assert(sizeof(ModelHeader) == 512);
static_assert(offsetof(ModelHeader, norm_eps) == 64 && offsetof(ModelHeader, eos_ids) == 88);
static_assert(offsetof(ModelHeader, data_offset) == 128 && offsetof(ModelHeader, root) == 216);

/// One row of the tensor table.
struct TensorEntry {
  uint32_t role;
  uint32_t layer;
  uint32_t kind;
  uint32_t rows;
  uint32_t cols;
  float scale;
  uint64_t offset;
  uint64_t bytes;
  uint8_t reserved[24];
};
static_assert(sizeof(TensorEntry) == 64);

enum Activation : uint32_t { kRelu2 = 1, kSilu = 2 };
enum Flags : uint32_t { kTiedHead = 1, kAttnSubNorm = 2, kFfnSubNorm = 4 };
enum Kind : uint32_t { kTernary = 1, kInt8Rows = 3, kF32Rows = 4 };
enum Role : uint32_t {
  kEmbedding = 1,
  kRopeInvFreq,
  kInputNorm,
  kQ,
  kK,
  kV,
  kAttnSubNormRole,
  kO,
  kPostAttentionNorm,
  kGate,
  kUp,
  kFfnSubNormRole,
  kDown,
  kFinalNorm,
  kHead,
};

/// A ternary matrix in tiles, in place. y = (weights · codes) * scale / activation scale.
struct Matrix {
  const uint8_t* weights;
  uint32_t rows;
  uint32_t cols;
  float scale;
  uint32_t rows_padded() const { return pad_lanes(rows); }
  uint32_t cols_padded() const { return pad_lanes(cols); }
  uint32_t tile_count() const { return rows_padded() / kTileRows; }
};

/// Embedding or head, in place. All but `data` only with kind kInt8Rows; then `data` is the high
/// plane.
struct Table {
  uint32_t kind;
  uint32_t rows;
  uint32_t cols;
  const uint8_t* data;
  const uint8_t* low;
  const float* row_scales;      ///< [rows_padded]
  float scale_max;              ///< the largest of them
  const float* residual_norms;  ///< [rows_padded], of what the low plane adds to its middle
};

struct Layer {
  const float* input_norm;
  Matrix q, k, v;
  const float* attn_sub_norm;  ///< null where the model has none
  Matrix o;
  const float* post_attention_norm;
  Matrix gate, up;
  const float* ffn_sub_norm;  ///< null where the model has none
  Matrix down;
};

/// A checked file. Pointers go into the file; `layers` into memory of the caller.
struct Model {
  const ModelHeader* header;
  Table embedding;
  const float* rope_inv_freq;
  std::span<const Layer> layers;
  const float* final_norm;
  Table head;
};

/// Checks the 512 bytes of the header alone (sizes against `file`, ranges, reserved bytes) and the
/// digest over header and leaf digests. kModelTruncated, kModelMagic, kModelVersion, kModelField
/// (subject = field, where = offset), kModelReserved, kModelDigest.
Result<const ModelHeader*> check_model_header(std::span<const uint8_t> file);

/// Checks the tensor table against the geometry and fills `layers` (layer_count elements).
/// `file` has passed check_model_header. kModelTensor (where = index of the tensor),
/// kModelReserved, kModelValue.
Result<Model> load_model(std::span<const uint8_t> file, std::span<Layer> layers);

}  // namespace bitnet::format
