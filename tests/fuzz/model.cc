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
  const uint64_t leaves = header.leaf_count * format::kDigestBytes;
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
void touch(const uint8_t* file, size_t bytes, const void* first, size_t count) {
  const auto* data = static_cast<const uint8_t*>(first);
  must(data >= file && count <= bytes && data + count <= file + bytes);
}

void touch_model(const uint8_t* file, size_t bytes, const format::Model& model) {
  for (const format::Layer& layer : model.layers) {
    for (const format::Matrix* matrix :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      touch(file, bytes, matrix->weights,
            size_t{matrix->rows_padded()} * matrix->cols_padded() / 4);
    }
    touch(file, bytes, layer.input_norm, size_t{model.header->hidden_size} * 4);
  }
  for (const format::Table* table : {&model.embedding, &model.head}) {
    const size_t codes = size_t{pad_lanes(table->rows)} * pad_lanes(table->cols);
    if (table->kind == format::kInt8Rows) {
      touch(file, bytes, table->data, codes);
      touch(file, bytes, table->row_scales, size_t{pad_lanes(table->rows)} * 4);
    } else {
      touch(file, bytes, table->data, size_t{table->rows} * pad_lanes(table->cols) * 4);
    }
  }
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  const bool with_root = data[0] % 4 != 0;
  const size_t size = bytes - 1;
  // Files are mapped at pages; a block of the exact size behind such an address.
  const size_t room = (size + 63) / 64 * 64 + 64;
  auto* block = static_cast<uint8_t*>(std::aligned_alloc(64, room));
  uint8_t* file = block;
  std::memcpy(file, data + 1, size);
  if (with_root) write_root(file, size);
  const Result<const format::ModelHeader*> header = format::check_model_header({file, size});
  if (header.ok() && header.value()->layer_count <= 64) {
    static format::Layer layers[64];
    const Result<format::Model> model =
        format::load_model({file, size}, {layers, header.value()->layer_count});
    if (model.ok()) touch_model(file, size, model.value());
    const format::Leaves leaves({file, size}, crypto::leaf_hash(0));
    (void)leaves.first_changed(0, leaves.count());
  }
  std::free(block);
  return 0;
}
