// The constant tables of one tokenizer, as tokenizer2cpp writes them (docs/formats/tokenizer.md).
// SPDX-License-Identifier: Apache-2.0
//
// Standard layout, pointers and counts only: constant data in a generated file fills it, and so
// does a host language through its C interface. The tables are trusted: whoever fills them has
// checked them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace bitnet::tokenizer {

/// "No token" in byte_ids and word_slots.
inline constexpr uint32_t kIdNone = 0xffffffffu;

/// A byte for each code point, in three steps; `byte_of` in characters.h reads it.
struct CharacterMap {
  const uint8_t* index;   ///< [0x110000 >> 9], number of a row
  const uint8_t* rows;    ///< 128 block numbers each
  const uint8_t* blocks;  ///< 4 bytes each; they begin with the 128 bytes of ASCII
};

/// Classes of a code point in `classes`, as the tokenizers library has them. Higher bits are of
/// no interest here.
enum CharacterFlag : uint8_t {
  kLetter = 1,    ///< \p{L}
  kNumber = 2,    ///< \p{N}
  kMark = 4,      ///< \p{M}; only where a rule asks for it
  kSpace = 8,     ///< \s
  kNumeric = 16,  ///< what is split off where digits stand apart
  kTrimmed = 32,  ///< what templates trim; only where a message is trimmed
};

/// Kinds of a code point in `nfc`; 1 … 254 are marks, by rank of their combining class.
inline constexpr uint8_t kNfcStable = 0;    ///< never changes, nothing before it reaches it
inline constexpr uint8_t kNfcUnsafe = 255;  ///< a starter that changes or may combine backwards

enum ChatKind : uint32_t {
  kChatToken = 1,    ///< value: id
  kChatLiteral = 2,  ///< value: offset into chat_data, bytes
  kChatSystem = 3,   ///< the system message; value: 1 if trimmed
  kChatUser = 4,     ///< the user message; value: 1 if trimmed
};

/// One piece of a conversation.
struct ChatRow {
  uint32_t kind;
  uint32_t value;
  uint32_t bytes;
};

struct Tables {
  uint32_t struct_bytes;  ///< sizeof(Tables): shows a stale filler in another language

  // How text is cut into pieces; see split.h.
  uint32_t contractions_fold_case;
  uint32_t letters_after_any;
  uint32_t letters_with_marks;
  uint32_t number_run_max;
  uint32_t newline_rules;
  uint32_t digits_apart;

  // Sizes.
  uint32_t vocab_size;
  uint32_t word_slot_bits;
  uint32_t word_bytes_max;
  uint32_t merge_bucket_bits;
  uint32_t merge_count;
  uint32_t nfc_bytes_factor;     ///< text grows at most by this factor; 1 without NFC
  uint32_t decomposition_count;  ///< 0 without NFC
  uint32_t composition_count;
  uint32_t chat_raw_count;
  uint32_t chat_user_count;         ///< 0: no chat template
  uint32_t chat_system_user_count;  ///< 0: the template takes no system message
  uint32_t chat_literal_bytes;      ///< of chat_data
  uint8_t source_sha384[48];        ///< of the tokenizer.json

  // Vocabulary.
  const uint32_t* token_offsets;  ///< [vocab_size + 1]
  const uint8_t* token_data;
  const uint32_t* special_bits;  ///< [ceil(vocab_size / 32)]
  const uint32_t* byte_ids;      ///< [256]; kIdNone: this byte has no token and is dropped

  // Pieces that are one token: open addressing, linear probing, hash_bytes() >> (64 - bits).
  const uint32_t* word_slots;  ///< [1 << word_slot_bits], id or kIdNone

  // Merges: the entries of bucket b are merge_entries[merge_buckets[b] … merge_buckets[b + 1]).
  const uint32_t* merge_buckets;  ///< [(1 << merge_bucket_bits) + 1]
  const uint64_t* merge_entries;  ///< left << 44 | right << 24 | rank
  const uint32_t* merge_ids;      ///< [merge_count], by rank

  CharacterMap classes;

  // Normal form C.
  CharacterMap nfc;                       ///< of nulls without NFC
  const uint32_t* decomposition_points;   ///< [decomposition_count], ascending
  const uint32_t* decomposition_offsets;  ///< [decomposition_count + 1]
  const uint32_t* decomposition_data;
  const uint64_t* composition_keys;  ///< [composition_count], ascending, first << 32 | second
  const uint32_t* composition_points;

  const ChatRow* chat_raw;  ///< what the file puts before a text (a BOS), and the user message
  const ChatRow* chat_user;
  const ChatRow* chat_system_user;
  const uint8_t* chat_data;
};

static_assert(std::is_standard_layout_v<Tables> && std::is_trivially_copyable_v<Tables>);
static_assert(offsetof(Tables, token_offsets) == 19 * 4 + 48 + 4, "19 words, a digest, padding");

}  // namespace bitnet::tokenizer
