// A prompt as fixed pieces: token ids, literal text, and the messages between them.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "tokenizer/characters.h"
#include "tokenizer/tables.h"
#include "tokenizer/tokenizer.h"

namespace bitnet::tokenizer {

namespace {

/// Without the white space at both ends, as Python's str.strip().
std::span<const uint8_t> trim(const Tables& tables, std::span<const uint8_t> text) {
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

std::span<const uint8_t> text_of(const Tables& tables, const ChatRow& row,
                                 std::span<const uint8_t> system, std::span<const uint8_t> user) {
  if (row.kind == kChatLiteral) return {tables.chat_data + row.value, row.bytes};
  const std::span<const uint8_t> message = row.kind == kChatSystem ? system : user;
  return row.value != 0 ? trim(tables, message) : message;
}

size_t align_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t chat_text_bytes(const Tables& tables, size_t text_bytes) {
  return text_bytes + tables.chat_literal_bytes;
}

}  // namespace

size_t encode_prompt_scratch_bytes(const Tables& tables, size_t text_bytes_max) {
  const size_t bytes = chat_text_bytes(tables, text_bytes_max);
  return align_up(bytes) + encode_scratch_bytes(tables, bytes);
}

size_t encode_prompt_ids_max(const Tables& tables, size_t text_bytes) {
  const size_t rows =
      size_t{tables.chat_raw_count} + tables.chat_user_count + tables.chat_system_user_count;
  return rows + encode_ids_max(tables, chat_text_bytes(tables, text_bytes));
}

Result<size_t> encode_prompt(const Tables& tables, bool chat, std::span<const uint8_t> system,
                             std::span<const uint8_t> user, std::span<uint8_t> scratch,
                             std::span<uint32_t> ids) {
  const std::span<const ChatRow> rows = rows_of(tables, chat, !system.empty());
  if (rows.empty()) {
    return Error{Status::kNoChatTemplate, system.empty() ? "chat template" : "system message"};
  }
  const size_t needed = encode_prompt_scratch_bytes(tables, system.size() + user.size());
  if (scratch.size() < needed) {
    return Error{Status::kBufferTooSmall, "tokenizer scratch", 0, scratch.size(), needed};
  }
  // Text between two control tokens is gathered and tokenised as one, template and message
  // together.
  uint8_t* const gathered = scratch.data();
  const std::span<uint8_t> rest =
      scratch.subspan(align_up(chat_text_bytes(tables, system.size() + user.size())));
  size_t bytes = 0;
  size_t count = 0;
  for (size_t i = 0; i <= rows.size(); ++i) {
    if (i < rows.size() && rows[i].kind != kChatToken) {
      const std::span<const uint8_t> text = text_of(tables, rows[i], system, user);
      if (!text.empty()) std::memcpy(gathered + bytes, text.data(), text.size());
      bytes += text.size();
      continue;
    }
    const Result<size_t> found = encode(tables, {gathered, bytes}, rest, ids.subspan(count));
    if (!found.ok()) return found;
    count += found.value();
    bytes = 0;
    if (i == rows.size()) break;
    if (count == ids.size()) {
      return Error{Status::kBufferTooSmall, "token ids", 0, count + 1, ids.size()};
    }
    ids[count++] = rows[i].value;
  }
  return count;
}

}  // namespace bitnet::tokenizer
