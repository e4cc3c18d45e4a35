// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/normalize.h"

#include <cstring>

#include "tokenizer/characters.h"

namespace bitnet::tokenizer {

namespace {

// Hangul syllables are composed by arithmetic: The Unicode Standard, section 3.12.
constexpr uint32_t kSyllableFirst = 0xac00;
constexpr uint32_t kLeadFirst = 0x1100;
constexpr uint32_t kVowelFirst = 0x1161;
constexpr uint32_t kFinalBase = 0x11a7;
constexpr uint32_t kLeadCount = 19;
constexpr uint32_t kVowelCount = 21;
constexpr uint32_t kFinalCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kFinalCount;

uint8_t kind_of(const Tables& tables, uint32_t point) { return byte_of(tables.nfc, point); }

bool is_mark(uint8_t kind) { return kind != kNfcStable && kind != kNfcUnsafe; }

/// Index of the first element that is not less than `key`.
template <typename T>
uint32_t lower_bound(const T* values, uint32_t count, T key) {
  uint32_t low = 0;
  while (low < count) {
    const uint32_t middle = low + (count - low) / 2;
    if (values[middle] < key) {
      low = middle + 1;
    } else {
      count = middle;
    }
  }
  return low;
}

/// What `first` and `second` compose to, or 0.
uint32_t compose(const Tables& tables, uint32_t first, uint32_t second) {
  if (first - kLeadFirst < kLeadCount && second - kVowelFirst < kVowelCount) {
    return kSyllableFirst +
           ((first - kLeadFirst) * kVowelCount + (second - kVowelFirst)) * kFinalCount;
  }
  if (first - kSyllableFirst < kSyllableCount && (first - kSyllableFirst) % kFinalCount == 0 &&
      second - (kFinalBase + 1) < kFinalCount - 1) {
    return first + (second - kFinalBase);
  }
  const uint64_t key = static_cast<uint64_t>(first) << 32 | second;
  const uint32_t i = lower_bound(tables.composition_keys, tables.composition_count, key);
  return i < tables.composition_count && tables.composition_keys[i] == key
             ? tables.composition_points[i]
             : 0;
}

/// One stretch from a stable starter up to the next one.
class Region {
 public:
  Region(const Tables& tables, uint32_t* points, uint32_t* sorted)
      : tables_(tables), points_(points), sorted_(sorted) {}

  void decompose(uint32_t point) {
    if (point - kSyllableFirst < kSyllableCount) {
      const uint32_t syllable = point - kSyllableFirst;
      points_[count_++] = kLeadFirst + syllable / (kVowelCount * kFinalCount);
      points_[count_++] = kVowelFirst + syllable / kFinalCount % kVowelCount;
      if (syllable % kFinalCount != 0) points_[count_++] = kFinalBase + syllable % kFinalCount;
      return;
    }
    const uint32_t i =
        lower_bound(tables_.decomposition_points, tables_.decomposition_count, point);
    if (i < tables_.decomposition_count && tables_.decomposition_points[i] == point) {
      const uint32_t end = tables_.decomposition_offsets[i + 1];
      for (uint32_t k = tables_.decomposition_offsets[i]; k < end; ++k) {
        points_[count_++] = tables_.decomposition_data[k];
      }
    } else {
      points_[count_++] = point;
    }
  }

  /// Sorts each run of marks by the rank of its class and keeps the order inside a class. Counting,
  /// so that a run of a million marks is no attack.
  void reorder() {
    for (size_t begin = 0, end = 0; begin < count_; begin = end + 1) {
      end = begin;
      while (end < count_ && is_mark(kind_of(tables_, points_[end]))) ++end;
      if (end - begin > 1) sort_marks(begin, end);
    }
  }

  /// Composes in place (Unicode Standard, D117) and writes the result.
  uint8_t* write(uint8_t* out) {
    constexpr size_t kNone = ~size_t{0};
    size_t starter = kNone;
    uint32_t last_kind = 0;  // of the character kept last after the starter; 0: none
    size_t kept = 0;
    for (size_t i = 0; i < count_; ++i) {
      const uint32_t point = points_[i];
      const uint8_t kind = kind_of(tables_, point);
      const uint32_t rank = is_mark(kind) ? kind : 0;
      const bool adjacent = starter != kNone && starter + 1 == kept;
      // A character between with the same or a higher class, or a starter, blocks.
      if (starter != kNone && (adjacent || last_kind < rank)) {
        const uint32_t composed = compose(tables_, points_[starter], point);
        if (composed != 0) {
          points_[starter] = composed;
          continue;
        }
      }
      if (rank == 0) starter = kept;
      last_kind = rank;
      points_[kept++] = point;
    }
    for (size_t i = 0; i < kept; ++i) out = write_character(points_[i], out);
    count_ = 0;
    return out;
  }

 private:
  void sort_marks(size_t begin, size_t end) {
    size_t places[256] = {};
    for (size_t i = begin; i < end; ++i) ++places[kind_of(tables_, points_[i]) + 1u];
    for (size_t kind = 1; kind < 256; ++kind) places[kind] += places[kind - 1];
    for (size_t i = begin; i < end; ++i) {
      sorted_[places[kind_of(tables_, points_[i])]++] = points_[i];
    }
    std::memcpy(points_ + begin, sorted_, (end - begin) * sizeof(uint32_t));
  }

  const Tables& tables_;
  uint32_t* points_;
  uint32_t* sorted_;
  size_t count_ = 0;
};

/// Past the characters that never change.
const uint8_t* skip_stable(const Tables& tables, const uint8_t* p, const uint8_t* end) {
  while (p < end) {
    const Character c = character_at(p, end);
    if (c.point >= 0x80 && kind_of(tables, c.point) != kNfcStable) break;
    p += c.bytes;
  }
  return p;
}

}  // namespace

Text normalize(const Tables& tables, Text text, std::span<uint8_t> out,
               std::span<uint32_t> scratch) {
  const uint8_t* p = text.data();
  const uint8_t* const end = p + text.size();
  if (skip_stable(tables, p, end) == end) return text;
  Region region(tables, scratch.data(), scratch.data() + scratch.size() / 2);
  uint8_t* written = out.data();
  while (p < end) {
    // Stable characters stay as they are, but for one that unstable ones follow: a region's first.
    const uint8_t* begin = skip_stable(tables, p, end);
    if (begin > p && begin < end) begin -= character_before(p, begin).bytes;
    std::memcpy(written, p, static_cast<size_t>(begin - p));
    written += begin - p;
    for (p = begin; p < end;) {
      const Character c = character_at(p, end);
      if (p > begin && kind_of(tables, c.point) == kNfcStable) break;
      region.decompose(c.point);
      p += c.bytes;
    }
    region.reorder();
    written = region.write(written);
  }
  return {out.data(), written};
}

}  // namespace bitnet::tokenizer
