// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.h"

#include <cstring>

#include "tokenizer/characters.h"
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

/// Without the white space at both ends, as Python's str.strip().
Text trim(const Tables& tables, Text text) {
  const uint8_t* end = text.data() + text.size();
  const uint8_t* const begin = skip(tables, text.data(), end, kTrimmed);
  while (end > begin) {
    const Character c = character_before(begin, end);
    if (!(byte_of(tables.classes, c.point) & kTrimmed)) break;
    end -= c.bytes;
  }
  return {begin, end};
}

std::span<const ChatRow> rows_of(const Tables& tables, bool chat, bool with_system) {
  if (!chat) return {tables.chat_raw, tables.chat_raw_count};
  if (with_system) return {tables.chat_system_user, tables.chat_system_user_count};
  return {tables.chat_user, tables.chat_user_count};
}

Text text_of(const Tables& tables, const ChatRow& row, Text system, Text user) {
  if (row.kind == kChatLiteral) return {tables.chat_data + row.value, row.bytes};
  const Text message = row.kind == kChatSystem ? system : user;
  return row.value != 0 ? trim(tables, message) : message;
}

size_t chat_text_bytes(const Tables& tables, size_t text_bytes) {
  return text_bytes + tables.chat_literal_bytes;
}

}  // namespace

size_t encode(const Tables& tables, Text text, std::span<uint8_t> scratch,
              std::span<uint32_t> ids) {
  ENGINE_CHECK(scratch.size() >= encode_scratch_bytes(tables, text.size()));
  const Workspace space(tables, text.size(), scratch);
  IdWriter out{ids};
  if (tables.nfc.index != nullptr) text = normalize(tables, text, space.text, space.words);
  Splitter splitter(tables, text);
  for (auto piece = splitter.next(); !piece.empty(); piece = splitter.next()) {
    merge_piece(tables, piece, space.words, out);
  }
  return out.count;
}

size_t encode_scratch_bytes(const Tables& tables, size_t text_bytes_max) {
  return Workspace::words_bytes(tables, text_bytes_max) +
         Workspace::text_bytes(tables, text_bytes_max);
}

size_t encode_ids_max(const Tables& tables, size_t text_bytes) {
  return text_bytes * tables.nfc_bytes_factor;
}

Text token_bytes(const Tables& tables, uint32_t id) {
  if (id >= tables.vocab_size) return {};
  const uint32_t begin = tables.token_offsets[id];
  return {tables.token_data + begin, tables.token_offsets[id + 1] - begin};
}

bool token_is_special(const Tables& tables, uint32_t id) {
  return id < tables.vocab_size && (tables.special_bits[id >> 5] >> (id & 31) & 1);
}

size_t encode_prompt_scratch_bytes(const Tables& tables, size_t text_bytes_max) {
  const size_t bytes = chat_text_bytes(tables, text_bytes_max);
  return align_up(bytes) + encode_scratch_bytes(tables, bytes);
}

size_t encode_prompt_ids_max(const Tables& tables, size_t text_bytes) {
  const size_t rows =
      size_t{tables.chat_raw_count} + tables.chat_user_count + tables.chat_system_user_count;
  return rows + encode_ids_max(tables, chat_text_bytes(tables, text_bytes));
}

Result<size_t> encode_prompt(const Tables& tables, bool chat, Text system, Text user,
                             std::span<uint8_t> scratch, std::span<uint32_t> ids) {
  const std::span<const ChatRow> rows = rows_of(tables, chat, !system.empty());
  if (rows.empty()) {
    return Error{Status::kNoChatTemplate, system.empty() ? "chat template" : "system message"};
  }
  ENGINE_CHECK(scratch.size() >= encode_prompt_scratch_bytes(tables, system.size() + user.size()));
  // Text between two control tokens is gathered and tokenised as one, template and message
  // together.
  uint8_t* const gathered = scratch.data();
  const std::span<uint8_t> rest =
      scratch.subspan(align_up(chat_text_bytes(tables, system.size() + user.size())));
  size_t bytes = 0;
  IdWriter out{ids};
  for (size_t i = 0; i <= rows.size(); ++i) {
    if (i < rows.size() && rows[i].kind != kChatToken) {
      const Text text = text_of(tables, rows[i], system, user);
      if (!text.empty()) std::memcpy(gathered + bytes, text.data(), text.size());
      bytes += text.size();
      continue;
    }
    out.count += encode(tables, {gathered, bytes}, rest, ids.subspan(out.count));
    bytes = 0;
    if (i < rows.size()) out.put(rows[i].value);
  }
  return out.count;
}

}  // namespace bitnet::tokenizer
