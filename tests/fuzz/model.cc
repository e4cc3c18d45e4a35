// model.bin: any bytes are a model or are refused, as docs/formats/model.md says; a model that
// passes lies within the file, and its leaves are checked where they are.
// SPDX-License-Identifier: Apache-2.0
//
// The smallest model has 13 pages, sizes that depend on each other, and a root over its header: no
// mutation of a whole file gets past the first two checks. The input is a recipe instead:
//
//   mode, pages, cut, entries (a byte each); header (512); entries x 64 of the table; patches
//
// An even cut, signed, makes the data longer, an odd one the file after its last digest.
// The data is zero, which is right everywhere. The mode says what the harness writes over the
// recipe's own, as somebody would who makes a file; what it leaves may be wrong in one place. A
// patch (u16 page, u16 byte, u32 value) goes into the file before the digests are written, or, with
// the highest bit of its page, after them.
#include <cstdlib>
#include <cstring>

#include "crypto/crypto.h"
#include "format/leaves.h"
#include "format/model_file.h"
#include "model/leaf_guard.h"
#include "model_recipe.h"

using namespace bitnet;
using recipe::Shapes;

extern "C" {
uint64_t fuzz_accepted = 0;
}

namespace {

enum Mode : uint8_t {
  kSizes = 1,         // what follows from the geometry, such as file_bytes, and from nothing
  kPlaces = 2,        // of the table: rows, cols, offset, bytes
  kRoot = 4,          //
  kLeafDigests = 8,   //
  kRoles = 16,        // of the table: role, layer, kind, scale
  kFit = 32,          // as many pages as the geometry wants, and `pages`, signed, more
  kCheckLeaves = 64,  // which takes most of the time
  kFewLanes = 128,    // the hash takes four leaves at once, not eight
};

/// The digest of a leaf; of leaves of zeros it is computed once.
void leaf_digest(const uint8_t* data, uint64_t bytes, uint64_t leaf, bool zeros, uint8_t* digest) {
  constexpr uint64_t kLeafPages = recipe::kLeaf / recipe::kPage;
  static uint8_t known[recipe::kLeavesMax][kLeafPages + 1][48];
  static bool there[recipe::kLeavesMax][kLeafPages + 1];
  if (!zeros || bytes % recipe::kPage != 0)
    return quick::leaf_digests(data, bytes, leaf, 1, digest);
  uint8_t* place = known[leaf][bytes / recipe::kPage];
  bool& found = there[leaf][bytes / recipe::kPage];
  if (!found) quick::leaf_digests(data, bytes, leaf, 1, place);
  found = true;
  std::memcpy(digest, place, 48);
}

struct File {
  uint8_t* data;
  uint64_t size;
  uint64_t header_bytes, data_bytes;
  uint32_t dirty = 0;  // leaves that are not zeros, a bit each

  uint64_t leaf_count() const { return recipe::rounded(data_bytes, 65536) / 65536; }
  uint64_t leaves_offset() const { return header_bytes + data_bytes; }
  uint64_t leaf_bytes(uint64_t leaf) const {
    const uint64_t rest = data_bytes - leaf * 65536;
    return rest < 65536 ? rest : 65536;
  }
  void digest(uint64_t leaf, uint8_t* out) const {
    const uint8_t* first = data + header_bytes + leaf * 65536;
    leaf_digest(first, leaf_bytes(leaf), leaf, (dirty >> leaf & 1) == 0, out);
  }
};

struct Recipe {
  uint8_t mode, pages, cut;
  uint64_t entries;
  const uint8_t* table;
  std::span<const uint8_t> patches;
};

/// A block of exactly the right size, so that a sanitizer sees the first byte past it; files are
/// mapped at pages, and the reader wants a multiple of 64.
File make_file(const format::ModelHeader& header, const Shapes& shapes, const Recipe& recipe) {
  File file{};
  file.header_bytes = shapes.count > 0 ? shapes.header_bytes()
                                       : recipe::rounded(512 + 64 * recipe.entries, recipe::kPage);
  uint64_t pages = recipe.pages;
  const auto more = static_cast<uint64_t>(static_cast<int8_t>(recipe.pages));
  if (recipe.mode & kFit) pages = shapes.pages + more;
  if (pages > recipe::kPagesMax - 1) pages = recipe::kPagesMax - 1;
  file.data_bytes = pages * recipe::kPage;
  const auto cut = static_cast<uint64_t>(static_cast<int8_t>(recipe.cut));
  if (cut % 2 == 0 && file.data_bytes + cut < recipe::kPagesMax * recipe::kPage)
    file.data_bytes += cut;
  file.size = file.leaves_offset() + 48 * file.leaf_count();
  if (cut % 2 != 0 && file.size + cut >= file.leaves_offset()) file.size += cut;
  void* block = nullptr;
  must(posix_memalign(&block, 64, file.size) == 0);
  file.data = static_cast<uint8_t*>(block);
  std::memset(file.data, 0, file.size);
  std::memcpy(file.data, &header, sizeof header);
  uint64_t table_bytes = 64 * recipe.entries;
  if (table_bytes > file.header_bytes - 512) table_bytes = file.header_bytes - 512;
  if (table_bytes > 0) std::memcpy(file.data + 512, recipe.table, table_bytes);
  return file;
}

void write_table(const File& file, const Shapes& shapes, uint8_t mode) {
  for (uint32_t i = 0; i < shapes.count; ++i) {
    auto& entry = reinterpret_cast<format::TensorEntry*>(file.data + 512)[i];
    const format::TensorEntry& right = shapes.rows[i];
    if (mode & kPlaces) {
      entry.rows = right.rows;
      entry.cols = right.cols;
      entry.offset = right.offset;
      entry.bytes = right.bytes;
    }
    if (mode & kRoles) {
      entry.role = right.role;
      entry.layer = right.layer;
      entry.kind = right.kind;
      entry.scale = right.scale;
    }
  }
}

void patch(File* file, std::span<const uint8_t> patches, bool late) {
  for (; patches.size() >= 8; patches = patches.subspan(8)) {
    uint16_t place[2];
    std::memcpy(place, patches.data(), sizeof place);
    const uint64_t at = (place[0] & 0x7fffu) * recipe::kPage + place[1];
    if (place[0] >> 15 != late || at > file->size || file->size - at < 4) continue;
    std::memcpy(file->data + at, patches.data() + 4, 4);
    for (const uint64_t byte : {at, at + 3}) {
      if (byte < file->header_bytes || byte >= file->leaves_offset()) continue;
      file->dirty |= 1u << (byte - file->header_bytes) / 65536;
    }
  }
}

/// Nothing where the file ends before.
void write_digests(const File& file, uint8_t mode) {
  const uint64_t end = file.leaves_offset() + 48 * file.leaf_count();
  if (end > file.size) return;
  for (uint64_t leaf = 0; leaf < file.leaf_count() && (mode & kLeafDigests); ++leaf) {
    file.digest(leaf, file.data + file.leaves_offset() + 48 * leaf);
  }
  if ((mode & kRoot) == 0) return;
  recipe::hash_root(file.data, file.header_bytes, file.leaves_offset(), file.leaf_count(),
                    reinterpret_cast<format::ModelHeader*>(file.data)->root);
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

/// Leaves that do not match, a bit each.
uint32_t wrong_leaves(const File& file) {
  uint32_t wrong = 0;
  for (uint64_t leaf = 0; leaf < file.leaf_count(); ++leaf) {
    uint8_t right[kDigestBytes];
    file.digest(leaf, right);
    const uint8_t* found = file.data + file.leaves_offset() + 48 * leaf;
    if (std::memcmp(right, found, sizeof right) != 0) wrong |= 1u << leaf;
  }
  return wrong;
}

/// A file whose header is right, and whose table nobody has checked; `model` if it has one.
void check_leaves(const File& file, const format::Model* model, uint8_t mode) {
  static runtime::ThreadTeam team;  // of this thread alone
  alignas(64) static uint8_t memory[256];
  quick::leaf_hash.lanes = mode & kFewLanes ? 4 : 8;
  const uint32_t wrong = wrong_leaves(file);
  const uint64_t first =
      wrong == 0 ? file.leaf_count() : static_cast<uint64_t>(__builtin_ctz(wrong));
  const std::span<const uint8_t> bytes(file.data, file.size);
  const format::Leaves leaves(bytes, quick::leaf_hash);
  must(leaves.count() == file.leaf_count() && leaves.first_changed(0, leaves.count()) == first);
  std::memset(memory, 0, sizeof memory);
  Arena arena(memory);
  const auto& header = *reinterpret_cast<const format::ModelHeader*>(file.data);
  model::LeafGuard guard(arena, header, format::VerifyMode::kLazy);
  const Error early = guard.start(team);
  must(!failed(early) || (early.status == Status::kModelLeaf && (wrong >> early.value & 1) != 0));
  if (model == nullptr) return;
  for (const format::Table* table : {&model->embedding, &model->head}) {
    guard.need(
        table->data,
        table->kind == format::kInt8Rows
            ? static_cast<size_t>(reinterpret_cast<const uint8_t*>(table->row_scales) - table->data)
            : size_t{4} * table->rows * pad_lanes(table->cols));
  }
  // Now every leaf has been used.
  must(failed(guard.error()) == (wrong != 0));
}

void look(const File& file, const Shapes& shapes, uint8_t mode) {
  const std::span<const uint8_t> bytes(file.data, file.size);
  const Result<const format::ModelHeader*> header = format::check_model_header(bytes);
  must(header.ok() == recipe::header_right(file.data, file.size, shapes));
  if (!header.ok()) return;
  static format::Layer layers[recipe::kLayersMax];
  const format::ModelHeader& h = *header.value();
  const Result<format::Model> model = format::load_model(bytes, {layers, h.layer_count});
  must(model.ok() == recipe::table_right(file.data, shapes, h.data_bytes));
  if (model.ok()) {
    fuzz_accepted += 1;
    touch_model(bytes, model.value());
  }
  if (mode & kCheckLeaves) check_leaves(file, model.ok() ? &model.value() : nullptr, mode);
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  constexpr size_t kHead = 4 + sizeof(format::ModelHeader);
  if (bytes < kHead) return 0;
  format::ModelHeader header;
  std::memcpy(&header, data + 4, sizeof header);
  const size_t room = (bytes - kHead) / 64;
  const size_t entries = data[3] < room ? data[3] : room;
  const size_t rest = kHead + 64 * entries;
  const Recipe recipe{data[0], data[1],      data[2],
                      entries, data + kHead, {data + rest, bytes - rest}};
  static Shapes shapes;
  recipe::find_shapes(header, &shapes);
  File file = make_file(header, shapes, recipe);
  if (recipe.mode & kSizes) {
    recipe::fill_sizes(reinterpret_cast<format::ModelHeader*>(file.data), shapes, file.data_bytes);
  }
  write_table(file, shapes, recipe.mode);
  patch(&file, recipe.patches, false);
  write_digests(file, recipe.mode);
  patch(&file, recipe.patches, true);
  // A patch may have changed the geometry.
  format::ModelHeader last;
  std::memcpy(&last, file.data, sizeof last);
  recipe::find_shapes(last, &shapes);
  look(file, shapes, recipe.mode);
  std::free(file.data);
  return 0;
}
