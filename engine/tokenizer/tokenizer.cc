// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.h"

#include "base/check.h"
#include "tokenizer/merge.h"
#include "tokenizer/normalize.h"
#include "tokenizer/split.h"
#include "tokenizer/tables.h"

namespace bitnet::tokenizer {

namespace {

constexpr size_t kScratchAlign = 64;

size_t align_up(size_t bytes) {
  return (bytes + kScratchAlign - 1) / kScratchAlign * kScratchAlign;
}

static_assert(kNormalizeScratchWords <= kMergeScratchWords, "one area serves both, in turn");

/// Scratch as [words for merging and normalising][normalised text].
struct Workspace {
  std::span<uint32_t> words;
  std::span<uint8_t> text;

  static size_t words_bytes(const Tables& tables, size_t text_bytes) {
    return align_up(text_bytes * tables.nfc_bytes_factor * kMergeScratchWords * sizeof(uint32_t));
  }
  static size_t text_bytes(const Tables& tables, size_t text_bytes) {
    return tables.nfc.index == nullptr ? 0 : align_up(text_bytes * tables.nfc_bytes_factor);
  }

  Workspace(const Tables& tables, size_t bytes, std::span<uint8_t> scratch)
      : words(reinterpret_cast<uint32_t*>(scratch.data()),
              words_bytes(tables, bytes) / sizeof(uint32_t)),
        text(scratch.subspan(words_bytes(tables, bytes), text_bytes(tables, bytes))) {}
};

}  // namespace

size_t encode_scratch_bytes(const Tables& tables, size_t text_bytes_max) {
  return Workspace::words_bytes(tables, text_bytes_max) +
         Workspace::text_bytes(tables, text_bytes_max);
}

size_t encode_ids_max(const Tables& tables, size_t text_bytes) {
  return text_bytes * tables.nfc_bytes_factor;
}

Result<size_t> encode(const Tables& tables, std::span<const uint8_t> text,
                      std::span<uint8_t> scratch, std::span<uint32_t> ids) {
  const size_t needed = encode_scratch_bytes(tables, text.size());
  if (scratch.size() < needed) {
    return Error{Status::kBufferTooSmall, "tokenizer scratch", 0, scratch.size(), needed};
  }
  const Workspace space(tables, text.size(), scratch);
  IdWriter out{ids};
  if (tables.nfc.index != nullptr) text = normalize(tables, text, space.text, space.words);
  Splitter splitter(tables, text);
  for (auto piece = splitter.next(); !piece.empty() && !out.overflow; piece = splitter.next()) {
    merge_piece(tables, piece, space.words, out);
  }
  if (out.overflow) {
    return Error{Status::kBufferTooSmall, "token ids", 0, ids.size() + 1, ids.size()};
  }
  return out.count;
}

std::span<const uint8_t> token_bytes(const Tables& tables, uint32_t id) {
  if (id >= tables.vocab_size) return {};
  const uint32_t begin = tables.token_offsets[id];
  return {tables.token_data + begin, tables.token_offsets[id + 1] - begin};
}

bool token_is_special(const Tables& tables, uint32_t id) {
  return id < tables.vocab_size && (tables.special_bits[id >> 5] >> (id & 31) & 1);
}

}  // namespace bitnet::tokenizer
