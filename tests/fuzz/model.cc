// model.bin: any bytes are a model or are refused; a model that passes lies within the file.
// SPDX-License-Identifier: Apache-2.0
//
// The root covers the header, so a change of any field would end at it. The first byte of the input
// says whether the harness writes the right root first, as somebody who makes a file would.
#include <cstdlib>
#include <cstring>

#include "crypto/crypto.h"
#include "format/leaves.h"
#include "format/model_file.h"

using namespace bitnet;

namespace {

void must(bool condition) {
  if (!condition) std::abort();
}

/// docs/formats/model.md, Digests; nothing where the sizes leave the file.
void write_root(uint8_t* file, size_t bytes) {
  if (bytes < sizeof(format::ModelHeader)) return;
  auto& header = *reinterpret_cast<format::ModelHeader*>(file);
  const uint64_t leaves = header.leaf_count * kDigestBytes;
  if (header.header_bytes > bytes || header.header_bytes < sizeof header ||
      header.leaf_count > bytes || header.leaves_offset > bytes ||
      leaves > bytes - header.leaves_offset)
    return;
  std::memset(header.root, 0, sizeof header.root);
  const uint8_t domain = 1;
  BitnetDigestState state;
  bitnet_sha3_384_init(&state);
  bitnet_sha3_384_update(&state, &domain, 1);
  bitnet_sha3_384_update(&state, file, header.header_bytes);
  bitnet_sha3_384_update(&state, file + header.leaves_offset, leaves);
  bitnet_sha3_384_final(&state, header.root);
}

/// Reads the first and the last byte of what a pointer of the model promises.
void touch(std::span<const uint8_t> file, const void* first, uint64_t count) {
  const auto* data = static_cast<const volatile uint8_t*>(first);
  must(data >= file.data() && count > 0 && count <= file.size());
  must(static_cast<size_t>(data - file.data()) <= file.size() - count);
  (void)data[0];
  (void)data[count - 1];
}

/// Padding included, as the kernels read it.
void touch_floats(std::span<const uint8_t> file, const float* first, uint32_t count) {
  touch(file, first, uint64_t{4} * pad_lanes(count));
}

void touch_table(std::span<const uint8_t> file, const format::Table& table) {
  const uint64_t cols = pad_lanes(table.cols);
  if (table.kind != format::kInt8Rows) return touch(file, table.data, 4 * cols * table.rows);
  touch(file, table.data, pad_lanes(table.rows) * cols / 2);
  touch(file, table.low, pad_lanes(table.rows) * low_row_bytes(table.cols));
  touch_floats(file, table.row_scales, table.rows);
  touch_floats(file, table.residual_norms, table.rows);
}

void touch_layer(std::span<const uint8_t> file, const format::ModelHeader& h,
                 const format::Layer& layer) {
  for (const format::Matrix* matrix :
       {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
    touch(file, matrix->weights, uint64_t{matrix->rows_padded()} * matrix->cols_padded() / 4);
  }
  touch_floats(file, layer.input_norm, h.hidden_size);
  touch_floats(file, layer.post_attention_norm, h.hidden_size);
  must((layer.attn_sub_norm != nullptr) == ((h.flags & format::kAttnSubNorm) != 0));
  must((layer.ffn_sub_norm != nullptr) == ((h.flags & format::kFfnSubNorm) != 0));
  if (layer.attn_sub_norm) touch_floats(file, layer.attn_sub_norm, h.head_count * h.head_dim);
  if (layer.ffn_sub_norm) touch_floats(file, layer.ffn_sub_norm, h.intermediate_size);
}

void touch_model(std::span<const uint8_t> file, const format::Model& model) {
  const format::ModelHeader& h = *model.header;
  for (const format::Layer& layer : model.layers) touch_layer(file, h, layer);
  touch_table(file, model.embedding);
  touch_table(file, model.head);
  touch_floats(file, model.rope_inv_freq, h.head_dim / 2);
  touch_floats(file, model.final_norm, h.hidden_size);
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  const bool with_root = data[0] % 4 != 0;
  const size_t size = bytes - 1;
  // Files are mapped at pages. A block of exactly this size, so that a sanitizer sees the first
  // byte past it; aligned_alloc would want whole multiples of 64.
  void* block = nullptr;
  must(posix_memalign(&block, 64, size) == 0);
  auto* file = static_cast<uint8_t*>(block);
  if (size > 0) std::memcpy(file, data + 1, size);
  if (with_root) write_root(file, size);
  const Result<const format::ModelHeader*> header = format::check_model_header({file, size});
  if (header.ok() && header.value()->layer_count <= 64) {
    static format::Layer layers[64];
    const Result<format::Model> model =
        format::load_model({file, size}, {layers, header.value()->layer_count});
    if (model.ok()) touch_model({file, size}, model.value());
    const format::Leaves leaves({file, size}, crypto::leaf_hashes()[0]);
    (void)leaves.first_changed(0, leaves.count());
  }
  std::free(block);
  return 0;
}
