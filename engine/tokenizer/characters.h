// Code points of a UTF-8 text and their classes. A byte that belongs to no valid sequence stands
// for itself.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "tokenizer/tables.h"

namespace bitnet::tokenizer {

/// Code points at and above this stand for single invalid bytes.
inline constexpr uint32_t kInvalidByte = 0x110000;

/// One character: its code point (kInvalidByte + byte for an invalid byte) and its length in bytes.
struct Character {
  uint32_t point;
  uint32_t bytes;
};

/// The character at `p`; p < end. Overlong forms, surrogates and values above U+10FFFF are invalid
/// (Unicode, table 3-7).
inline Character character_at(const uint8_t* p, const uint8_t* end) {
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};  // by length
  const uint32_t lead = *p;
  if (lead < 0x80) return {lead, 1};
  const Character invalid{kInvalidByte + lead, 1};
  const uint32_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead >= 0xf5 || static_cast<size_t>(end - p) < bytes) return invalid;
  uint32_t point = lead & (0x7fu >> bytes);
  for (uint32_t i = 1; i < bytes; ++i) {
    if ((p[i] & 0xc0u) != 0x80u) return invalid;
    point = point << 6 | (p[i] & 0x3fu);
  }
  const bool surrogate = point >= 0xd800 && point < 0xe000;
  return point < kLeast[bytes] || surrogate || point >= kInvalidByte ? invalid
                                                                     : Character{point, bytes};
}

/// The character that ends at `p`; begin < p.
inline Character character_before(const uint8_t* begin, const uint8_t* p) {
  for (uint32_t bytes = 2; bytes <= 4 && bytes <= static_cast<size_t>(p - begin); ++bytes) {
    const Character found = character_at(p - bytes, p);
    if (found.bytes == bytes) return found;
  }
  return character_at(p - 1, p);
}

/// Writes `point` to `out` (room for 4 bytes) and returns the end.
inline uint8_t* write_character(uint32_t point, uint8_t* out) {
  constexpr uint8_t kLead[] = {0, 0xc0, 0xe0, 0xf0};  // by the number of bytes that follow
  if (point >= kInvalidByte) {
    *out++ = static_cast<uint8_t>(point - kInvalidByte);
    return out;
  }
  uint32_t left = point < 0x80 ? 0 : point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
  *out++ = static_cast<uint8_t>(kLead[left] | point >> (6 * left));
  while (left-- > 0) *out++ = static_cast<uint8_t>(0x80u | (point >> (6 * left) & 0x3fu));
  return out;
}

/// What a map says of a code point; 0 for an invalid byte.
inline uint8_t byte_of(const CharacterMap& map, uint32_t point) {
  if (point >= kInvalidByte) return 0;
  const uint32_t row = map.index[point >> 9];
  const uint32_t block = map.rows[row << 7 | (point >> 2 & 127)];
  return map.blocks[block << 2 | (point & 3)];
}

/// A character together with its classes.
struct Classified {
  uint32_t point;
  uint32_t bytes;
  uint8_t flags;
};

inline Classified classified_at(const Tables& tables, const uint8_t* p, const uint8_t* end) {
  if (*p < 0x80) return {*p, 1, tables.classes.blocks[*p]};
  const Character found = character_at(p, end);
  return {found.point, found.bytes, byte_of(tables.classes, found.point)};
}

/// Past the characters that have any of `flags` (or with `any` false: that have none).
inline const uint8_t* skip(const Tables& tables, const uint8_t* p, const uint8_t* end,
                           uint8_t flags, bool any = true) {
  while (p < end) {
    const Classified c = classified_at(tables, p, end);
    if (((c.flags & flags) != 0) != any) break;
    p += c.bytes;
  }
  return p;
}

}  // namespace bitnet::tokenizer
