// The tokenizer written again from what its headers promise: whole texts, plain loops, no short
// cuts. It knows the same tables and nothing of the code that it is held against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenizer/tables.h"
#include "walk.h"

namespace slow {

using Bytes = std::span<const uint8_t>;
using bitnet::tokenizer::ChatRow;
using bitnet::tokenizer::Tables;

// What this code does tells nothing of the code under test.
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

/// A growing row in a block of its own; the harness is linked without a C++ library.
template <typename T>
struct Row {
  T* data = nullptr;
  size_t count = 0;
  size_t room = 0;

  Row() = default;
  Row(const Row&) = delete;
  Row& operator=(const Row&) = delete;
  ~Row() { std::free(data); }

  void add(T value) {
    if (count == room) {
      room = room == 0 ? 256 : 2 * room;
      data = static_cast<T*>(std::realloc(data, room * sizeof(T)));
      must(data != nullptr);
    }
    data[count++] = value;
  }
  T& operator[](size_t i) const { return data[i]; }
};

inline bool equal(Bytes a, Bytes b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) same = a[i] == b[i];
  return same;
}

/// Takes one character: the well-formed sequences of The Unicode Standard, table 3-7, row by row.
/// Any other byte is 0x110000 and itself.
inline uint32_t take_point(Bytes* rest) {
  struct Sequence {
    uint8_t first_low, first_high, second_low, second_high;
    size_t bytes;
    uint32_t bits;
  };
  constexpr Sequence kTable[] = {
      {0x00, 0x7f, 0, 0, 1, 0x7f},       {0xc2, 0xdf, 0x80, 0xbf, 2, 0x1f},
      {0xe0, 0xe0, 0xa0, 0xbf, 3, 0x0f}, {0xe1, 0xec, 0x80, 0xbf, 3, 0x0f},
      {0xed, 0xed, 0x80, 0x9f, 3, 0x0f}, {0xee, 0xef, 0x80, 0xbf, 3, 0x0f},
      {0xf0, 0xf0, 0x90, 0xbf, 4, 0x07}, {0xf1, 0xf3, 0x80, 0xbf, 4, 0x07},
      {0xf4, 0xf4, 0x80, 0x8f, 4, 0x07}};
  const Bytes text = *rest;
  for (const Sequence& row : kTable) {
    if (text[0] < row.first_low || text[0] > row.first_high || text.size() < row.bytes) continue;
    uint32_t point = text[0] & row.bits;
    bool right = row.bytes == 1 || (text[1] >= row.second_low && text[1] <= row.second_high);
    for (size_t i = 1; i < row.bytes; ++i) {
      right = right && text[i] >= 0x80 && text[i] <= 0xbf;
      point = point * 64 + text[i] % 64;
    }
    if (!right) continue;
    *rest = text.subspan(row.bytes);
    return point;
  }
  *rest = text.subspan(1);
  return 0x110000 + text[0];
}

inline void put_point(uint32_t point, Row<uint8_t>* out) {
  const auto put = [out](uint32_t byte) { out->add(static_cast<uint8_t>(byte)); };
  if (point >= 0x110000) return put(point - 0x110000);
  if (point < 0x80) return put(point);
  if (point < 0x800) {
    put(0xc0 + point / 64);
  } else if (point < 0x10000) {
    put(0xe0 + point / 4096);
    put(0x80 + point / 64 % 64);
  } else {
    put(0xf0 + point / 262144);
    put(0x80 + point / 4096 % 64);
    put(0x80 + point / 64 % 64);
  }
  put(0x80 + point % 64);
}

/// An entry of a table in three steps: rows for 512 points, blocks for 4.
inline uint8_t look_up(const bitnet::tokenizer::CharacterMap& map, uint32_t point) {
  if (point >= 0x110000) return 0;
  const size_t block = map.rows[size_t{map.index[point / 512]} * 128 + point % 512 / 4];
  return map.blocks[block * 4 + point % 4];
}

/// The index of the first element that is not below `key`; steps of powers of two.
template <typename T>
size_t find_place(const T* values, size_t count, T key) {
  size_t place = 0;
  for (size_t step = size_t{1} << 24; step > 0; step /= 2) {
    if (place + step <= count && values[place + step - 1] < key) place += step;
  }
  return place;
}

// Normal form C over the whole text: decompose all, order all, compose all (UAX 15).

/// By rank of the combining class; 0 of a starter.
inline uint8_t rank_of(const Tables& tables, uint32_t point) {
  const uint8_t kind = look_up(tables.nfc, point);
  return kind == 255 ? 0 : kind;
}

inline void decompose(const Tables& tables, Bytes text, Row<uint32_t>* out) {
  while (!text.empty()) {
    const uint32_t point = take_point(&text);
    if (point >= 0xac00 && point <= 0xd7a3) {
      const uint32_t index = point - 0xac00;
      out->add(0x1100 + index / 588);
      out->add(0x1161 + index % 588 / 28);
      if (index % 28 != 0) out->add(0x11a7 + index % 28);
      continue;
    }
    const size_t i = find_place(tables.decomposition_points, tables.decomposition_count, point);
    if (i == tables.decomposition_count || tables.decomposition_points[i] != point) {
      out->add(point);
      continue;
    }
    const uint32_t* place = tables.decomposition_data + tables.decomposition_offsets[i];
    for (; place < tables.decomposition_data + tables.decomposition_offsets[i + 1]; ++place) {
      out->add(*place);
    }
  }
}

/// Swaps neighbours that stand the wrong way round (D108 … D109).
inline void put_in_order(const Tables& tables, const Row<uint32_t>& points) {
  for (size_t end = 1; end < points.count; ++end) {
    const uint8_t rank = rank_of(tables, points[end]);
    for (size_t i = end; i > 0 && rank != 0 && rank_of(tables, points[i - 1]) > rank; --i) {
      const uint32_t point = points[i];
      points[i] = points[i - 1];
      points[i - 1] = point;
    }
  }
}

inline uint32_t composite(const Tables& tables, uint32_t first, uint32_t second) {
  if (first >= 0x1100 && first <= 0x1112 && second >= 0x1161 && second <= 0x1175) {
    return 0xac00 + (first - 0x1100) * 588 + (second - 0x1161) * 28;
  }
  if (first >= 0xac00 && first <= 0xd7a3 && (first - 0xac00) % 28 == 0 && second >= 0x11a8 &&
      second <= 0x11c2) {
    return first + second - 0x11a7;
  }
  const uint64_t key = uint64_t{first} << 32 | second;
  const size_t i = find_place(tables.composition_keys, tables.composition_count, key);
  const bool known = i < tables.composition_count && tables.composition_keys[i] == key;
  return known ? tables.composition_points[i] : 0;
}

/// D117: a character composes with the last starter before it, unless one between blocks it.
inline void compose(const Tables& tables, const Row<uint32_t>& points, Row<uint32_t>* out) {
  for (size_t i = 0; i < points.count; ++i) {
    const uint32_t point = points[i];
    const uint8_t rank = rank_of(tables, point);
    size_t starter = out->count;
    bool blocked = false;
    for (; starter > 0 && rank_of(tables, (*out)[starter - 1]) != 0; --starter) {
      blocked = blocked || rank_of(tables, (*out)[starter - 1]) >= rank;
    }
    const bool alone = starter == 0 || blocked;
    const uint32_t whole = alone ? 0 : composite(tables, (*out)[starter - 1], point);
    if (whole == 0) {
      out->add(point);
    } else {
      (*out)[starter - 1] = whole;
    }
  }
}

inline void normalize(const Tables& tables, Bytes text, Row<uint8_t>* out) {
  Row<uint32_t> apart, composed;
  decompose(tables, text, &apart);
  put_in_order(tables, apart);
  compose(tables, apart, &composed);
  for (size_t i = 0; i < composed.count; ++i) put_point(composed[i], out);
}

// The pattern at the head of split.h, alternative by alternative, over characters.

struct Letter {
  uint32_t point;
  uint32_t flags;
  size_t at;  ///< offset of its first byte
};

struct Pattern {
  const Tables& tables;
  const Row<Letter>& text;
  size_t end;  ///< of the stretch that the pattern sees

  bool has(size_t i, uint32_t flags) const { return i < end && (text[i].flags & flags) != 0; }
  bool is(size_t i, uint32_t point) const { return i < end && text[i].point == point; }
  bool newline(size_t i) const { return is(i, '\r') || is(i, '\n'); }
  uint32_t letters() const {
    return tables.letters_with_marks ? bitnet::tokenizer::kLetter | bitnet::tokenizer::kMark
                                     : bitnet::tokenizer::kLetter;
  }

  bool spells(size_t i, const char* word) const {
    for (; *word != 0; ++word, ++i) {
      const auto small = static_cast<uint32_t>(*word);
      const bool folded = tables.contractions_fold_case != 0 &&
                          (is(i, small - 32) || (small == 's' && is(i, 0x17f)));
      if (!is(i, small) && !folded) return false;
    }
    return true;
  }
  size_t contraction(size_t i) const {
    if (!is(i, '\'')) return i;
    for (const char* word : {"s", "t", "re", "ve", "m", "ll", "d"}) {
      if (spells(i + 1, word)) return i + 1 + std::strlen(word);
    }
    return i;
  }
  size_t run(size_t i, uint32_t flags) const {
    while (has(i, flags)) ++i;
    return i;
  }
  size_t word(size_t i) const {
    const uint32_t barred = bitnet::tokenizer::kLetter | bitnet::tokenizer::kNumber;
    const bool leads = tables.letters_after_any ? !newline(i) && !has(i, barred) : is(i, ' ');
    const size_t led = leads ? run(i + 1, letters()) : i;
    return leads && led > i + 1 ? led : run(i, letters());
  }
  size_t numbers(size_t i) const {
    const size_t most = tables.number_run_max;
    if (most == 0) {
      const size_t after = run(i + is(i, ' '), bitnet::tokenizer::kNumber);
      return after > i + is(i, ' ') ? after : i;
    }
    const size_t after = run(i, bitnet::tokenizer::kNumber);
    return after > i + most ? i + most : after;
  }
  size_t signs(size_t i) const {
    const uint32_t others = bitnet::tokenizer::kSpace | bitnet::tokenizer::kNumber | letters();
    const size_t begin = i + is(i, ' ');
    size_t after = begin;
    while (after < end && !has(after, others)) ++after;
    if (after == begin) return i;
    while (tables.newline_rules && newline(after)) ++after;
    return after;
  }
  size_t lines(size_t i) const {
    size_t after = run(i, bitnet::tokenizer::kSpace);
    while (after > i && !newline(after - 1)) --after;
    return tables.newline_rules ? after : i;
  }
  size_t space(size_t i) const {
    const size_t after = run(i, bitnet::tokenizer::kSpace);
    return after == end || after <= i + 1 ? after : after - 1;
  }
  size_t match(size_t i) const {
    size_t after = contraction(i);
    if (after == i) after = word(i);
    if (after == i) after = numbers(i);
    if (after == i) after = signs(i);
    if (after == i) after = lines(i);
    if (after == i) after = space(i);
    return after;
  }
};

// Merging.

/// The tables of one tokenizer in another order: whole words by their bytes, merges by their pair.
struct Index {
  const Tables* tables = nullptr;
  Row<uint32_t> words;
  Row<uint64_t> merges;

  Bytes token(uint32_t id) const {
    const uint32_t begin = tables->token_offsets[id];
    return {tables->token_data + begin, tables->token_offsets[id + 1] - begin};
  }
};

inline int compare_texts(Bytes a, Bytes b) {
  size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  if (i == a.size() || i == b.size()) return static_cast<int>(i < a.size()) - (i < b.size());
  return a[i] < b[i] ? -1 : 1;
}

inline const Index* sorted_index = nullptr;  ///< what `compare_words` sorts

inline int compare_words(const void* a, const void* b) {
  return compare_texts(sorted_index->token(*static_cast<const uint32_t*>(a)),
                       sorted_index->token(*static_cast<const uint32_t*>(b)));
}
inline int compare_numbers(const void* a, const void* b) {
  const uint64_t left = *static_cast<const uint64_t*>(a), right = *static_cast<const uint64_t*>(b);
  return static_cast<int>(left > right) - (left < right);
}

inline void make_index(const Tables& tables, Index* out) {
  out->tables = &tables;
  for (size_t i = 0; i < size_t{1} << tables.word_slot_bits; ++i) {
    if (tables.word_slots[i] != bitnet::tokenizer::kIdNone) out->words.add(tables.word_slots[i]);
  }
  for (size_t i = 0; i < tables.merge_count; ++i) out->merges.add(tables.merge_entries[i]);
  sorted_index = out;
  std::qsort(out->words.data, out->words.count, sizeof(uint32_t), compare_words);
  std::qsort(out->merges.data, out->merges.count, sizeof(uint64_t), compare_numbers);
}

inline uint32_t find_word(const Index& index, Bytes piece) {
  size_t place = 0;
  for (size_t step = size_t{1} << 24; step > 0; step /= 2) {
    if (place + step > index.words.count) continue;
    const Bytes word = index.token(index.words[place + step - 1]);
    if (compare_texts(word, piece) < 0) place += step;
  }
  const bool found = place < index.words.count && equal(index.token(index.words[place]), piece);
  return found ? index.words[place] : bitnet::tokenizer::kIdNone;
}

/// The rank of a pair; kIdNone where it does not merge.
inline uint32_t rank_of_pair(const Index& index, uint32_t left, uint32_t right) {
  const uint64_t pair = uint64_t{left} << 44 | uint64_t{right} << 24;
  const size_t i = find_place(index.merges.data, index.merges.count, pair);
  const bool found = i < index.merges.count && index.merges[i] >> 24 == pair >> 24;
  return found ? static_cast<uint32_t>(index.merges[i] & 0xffffff) : bitnet::tokenizer::kIdNone;
}

/// Again and again the pair of the lowest rank, of several the leftmost.
inline void merge(const Index& index, Bytes piece, Row<uint32_t>* out) {
  const uint32_t word = find_word(index, piece);
  if (word != bitnet::tokenizer::kIdNone) return out->add(word);
  Row<uint32_t> ids, ranks;  // ranks[i] is of the pair that begins at i
  for (const uint8_t byte : piece) {
    const uint32_t id = index.tables->byte_ids[byte];
    if (id != bitnet::tokenizer::kIdNone) ids.add(id);
  }
  const auto rank_at = [&](size_t i) {
    return i + 1 < ids.count ? rank_of_pair(index, ids[i], ids[i + 1]) : bitnet::tokenizer::kIdNone;
  };
  for (size_t i = 0; i < ids.count; ++i) ranks.add(rank_at(i));
  for (;;) {
    size_t best = 0;
    for (size_t i = 1; i < ids.count; ++i) best = ranks[i] < ranks[best] ? i : best;
    if (ids.count == 0 || ranks[best] == bitnet::tokenizer::kIdNone) break;
    ids[best] = index.tables->merge_ids[ranks[best]];
    for (size_t i = best + 1; i + 1 < ids.count; ++i) {
      ids[i] = ids[i + 1];
      ranks[i] = ranks[i + 1];
    }
    ranks.count = --ids.count;
    ranks[best] = rank_at(best);
    if (best > 0) ranks[best - 1] = rank_at(best - 1);
  }
  for (size_t i = 0; i < ids.count; ++i) out->add(ids[i]);
}

// The whole way.

/// Appends the ids of a text.
inline void encode(const Index& index, Bytes text, Row<uint32_t>* out) {
  const Tables& tables = *index.tables;
  Row<uint8_t> normal;
  if (tables.nfc.index != nullptr) {
    normalize(tables, text, &normal);
    text = {normal.data, normal.count};
  }
  Row<Letter> letters;
  for (Bytes rest = text; !rest.empty();) {
    const size_t at = text.size() - rest.size();
    const uint32_t point = take_point(&rest);
    letters.add({point, look_up(tables.classes, point), at});
  }
  for (size_t begin = 0; begin < letters.count;) {
    const auto apart = [&](size_t i) {
      return tables.digits_apart != 0 && (letters[i].flags & bitnet::tokenizer::kNumeric) != 0;
    };
    size_t stretch = begin;
    while (stretch < letters.count && !apart(stretch)) ++stretch;
    const Pattern pattern{tables, letters, stretch};
    const size_t after = stretch == begin ? begin + 1 : pattern.match(begin);
    must(after > begin);
    const size_t end = after < letters.count ? letters[after].at : text.size();
    merge(index, text.subspan(letters[begin].at, end - letters[begin].at), out);
    begin = after;
  }
}

/// Without the white space at both ends, found from the front alone.
inline Bytes trim(const Tables& tables, Bytes text) {
  size_t begin = text.size(), end = text.size();
  for (Bytes rest = text; !rest.empty();) {
    const size_t at = text.size() - rest.size();
    if ((look_up(tables.classes, take_point(&rest)) & bitnet::tokenizer::kTrimmed) != 0) continue;
    if (begin == text.size()) begin = at;
    end = text.size() - rest.size();
  }
  return text.subspan(begin, end - begin);
}

/// Goes through a conversation: tokens as they are; what stands between two of them is one text.
template <typename OnToken, typename OnText>
void converse(const Tables& tables, std::span<const ChatRow> rows, Bytes system, Bytes user,
              OnToken on_token, OnText on_text) {
  Row<uint8_t> between;
  for (const ChatRow& row : rows) {
    if (row.kind == bitnet::tokenizer::kChatToken) {
      on_text(Bytes{between.data, between.count});
      between.count = 0;
      on_token(row.value);
      continue;
    }
    Bytes said = row.kind == bitnet::tokenizer::kChatSystem ? system : user;
    if (row.kind == bitnet::tokenizer::kChatLiteral) {
      said = {tables.chat_data + row.value, row.bytes};
    } else if (row.value != 0) {
      said = trim(tables, said);
    }
    for (const uint8_t byte : said) between.add(byte);
  }
  on_text(Bytes{between.data, between.count});
}

#pragma clang attribute pop

}  // namespace slow
