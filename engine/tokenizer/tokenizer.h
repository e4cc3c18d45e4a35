// Byte-level BPE over constant tables: text to token ids and back. No JSON, no regular expressions,
// no allocation.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "base/text.h"

namespace bitnet::tokenizer {

struct Tables;  // constant data, written by tokenizer2cpp; tokenizer/tables.h

/// Scratch bytes (64-byte aligned) that `encode` needs for a text of at most `text_bytes_max`.
size_t encode_scratch_bytes(const Tables& tables, size_t text_bytes_max);

/// Writes the ids of `text` (any bytes; invalid UTF-8 is taken byte by byte) to `ids`. Text never
/// becomes a control token: nothing here looks for one.
/// Returns the count: a text of n bytes gives at most encode_ids_max(tables, n) ids, for which
/// there must be room. Time O(n log n) for any input.
size_t encode(const Tables& tables, Text text, std::span<uint8_t> scratch, std::span<uint32_t> ids);
size_t encode_ids_max(const Tables& tables, size_t text_bytes);

/// Bytes of one token, inside the tables; empty for an id outside the vocabulary.
Text token_bytes(const Tables& tables, uint32_t id);
/// True for added tokens marked special (not shown in an answer).
bool token_is_special(const Tables& tables, uint32_t id);

/// Writes the ids of a prompt. With `chat`: a conversation of an optional system message and one
/// user message followed by the generation prompt; else the user message alone, after what the
/// tokenizer's own file puts before a text (a BOS). Text of the messages is never matched against
/// added tokens; text of the template that touches a message is tokenised together with it.
/// kNoChatTemplate if the tables have none, or none for a system message.
Result<size_t> encode_prompt(const Tables& tables, bool chat, Text system, Text user,
                             std::span<uint8_t> scratch, std::span<uint32_t> ids);
size_t encode_prompt_scratch_bytes(const Tables& tables, size_t text_bytes_max);
size_t encode_prompt_ids_max(const Tables& tables, size_t text_bytes);

}  // namespace bitnet::tokenizer
