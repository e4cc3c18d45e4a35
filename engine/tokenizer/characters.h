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
  const uint32_t lead = *p;
  if (lead < 0x80) return {lead, 1};
  const size_t left = static_cast<size_t>(end - p);
  const auto continues = [p](size_t i) { return (p[i] & 0xc0u) == 0x80u; };
  if (lead >= 0xc2 && lead < 0xe0 && left >= 2 && continues(1)) {
    return {(lead & 0x1fu) << 6 | (p[1] & 0x3fu), 2};
  }
  if (lead >= 0xe0 && lead < 0xf0 && left >= 3 && continues(1) && continues(2)) {
    const uint32_t point = (lead & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    if (point >= 0x800 && (point < 0xd800 || point >= 0xe000)) return {point, 3};
  }
  if (lead >= 0xf0 && lead < 0xf5 && left >= 4 && continues(1) && continues(2) && continues(3)) {
    const uint32_t point =
        (lead & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    if (point >= 0x10000 && point < kInvalidByte) return {point, 4};
  }
  return {kInvalidByte + lead, 1};
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
  if (point >= kInvalidByte) {
    *out++ = static_cast<uint8_t>(point - kInvalidByte);
  } else if (point < 0x80) {
    *out++ = static_cast<uint8_t>(point);
  } else if (point < 0x800) {
    *out++ = static_cast<uint8_t>(0xc0u | point >> 6);
    *out++ = static_cast<uint8_t>(0x80u | (point & 0x3fu));
  } else if (point < 0x10000) {
    *out++ = static_cast<uint8_t>(0xe0u | point >> 12);
    *out++ = static_cast<uint8_t>(0x80u | (point >> 6 & 0x3fu));
    *out++ = static_cast<uint8_t>(0x80u | (point & 0x3fu));
  } else {
    *out++ = static_cast<uint8_t>(0xf0u | point >> 18);
    *out++ = static_cast<uint8_t>(0x80u | (point >> 12 & 0x3fu));
    *out++ = static_cast<uint8_t>(0x80u | (point >> 6 & 0x3fu));
    *out++ = static_cast<uint8_t>(0x80u | (point & 0x3fu));
  }
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
