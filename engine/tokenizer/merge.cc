// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/merge.h"

#include <cstring>

namespace bitnet::tokenizer {

namespace {

constexpr uint64_t kHashMultiplier = 0x9e3779b97f4a7c15u;
constexpr uint32_t kRankNone = 0xffffffffu;

/// Up to this many symbols a scan for the lowest rank is faster than a heap.
constexpr size_t kShortSymbolsMax = 64;

uint64_t hash_bytes(std::span<const uint8_t> data) {
  uint64_t value = data.size();
  const uint8_t* p = data.data();
  size_t left = data.size();
  for (; left >= 8; p += 8, left -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    value = (value ^ word) * kHashMultiplier;
    value ^= value >> 32;
  }
  if (left > 0) {
    uint64_t word = 0;
    for (size_t i = 0; i < left; ++i) word |= static_cast<uint64_t>(p[i]) << (8 * i);
    value = (value ^ word) * kHashMultiplier;
    value ^= value >> 32;
  }
  return value;
}

/// The id of a piece that is one token as a whole, or kIdNone.
uint32_t find_word(const Tables& tables, std::span<const uint8_t> piece) {
  if (piece.size() > tables.word_bytes_max) return kIdNone;
  const uint32_t mask = (1u << tables.word_slot_bits) - 1;
  uint32_t slot = static_cast<uint32_t>(hash_bytes(piece) >> (64 - tables.word_slot_bits));
  for (;; slot = (slot + 1) & mask) {
    const uint32_t id = tables.word_slots[slot];
    if (id == kIdNone) return kIdNone;
    const uint32_t begin = tables.token_offsets[id];
    const uint32_t bytes = tables.token_offsets[id + 1] - begin;
    if (bytes == piece.size() && std::memcmp(tables.token_data + begin, piece.data(), bytes) == 0) {
      return id;
    }
  }
}

/// The rank of merging `left` with `right`, or kRankNone.
uint32_t find_rank(const Tables& tables, uint32_t left, uint32_t right) {
  const uint64_t key = static_cast<uint64_t>(left) << 20 | right;
  const uint64_t bucket = (key * kHashMultiplier) >> (64 - tables.merge_bucket_bits);
  const uint32_t end = tables.merge_buckets[bucket + 1];
  for (uint32_t i = tables.merge_buckets[bucket]; i < end; ++i) {
    const uint64_t entry = tables.merge_entries[i];
    if (entry >> 24 == key) return static_cast<uint32_t>(entry & 0xffffffu);
  }
  return kRankNone;
}

/// Merges few symbols: `ids` of `count` symbols, `ranks[i]` of the pair (i, i + 1).
size_t merge_short(const Tables& tables, uint32_t* ids, uint32_t* ranks, size_t count) {
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = find_rank(tables, ids[i], ids[i + 1]);
  while (count > 1) {
    uint32_t lowest = kRankNone;
    size_t place = 0;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (ranks[i] < lowest) {
        lowest = ranks[i];
        place = i;
      }
    }
    if (lowest == kRankNone) break;
    ids[place] = tables.merge_ids[lowest];
    --count;
    std::memmove(ids + place + 1, ids + place + 2, (count - place - 1) * sizeof(uint32_t));
    if (place + 1 < count) {
      std::memmove(ranks + place + 1, ranks + place + 2, (count - place - 2) * sizeof(uint32_t));
      ranks[place] = find_rank(tables, ids[place], ids[place + 1]);
    }
    if (place > 0) ranks[place - 1] = find_rank(tables, ids[place - 1], ids[place]);
  }
  return count;
}

/// Many symbols as a doubly linked list, with a binary heap of the pairs by (rank, place).
/// Each place stands at most once in the heap, so n symbols need no more than n entries.
class LongMerge {
 public:
  LongMerge(const Tables& tables, uint32_t* ids, uint32_t* scratch, uint32_t count)
      : tables_(tables),
        ids_(ids),
        next_(scratch),
        previous_(scratch + count),
        ranks_(scratch + 2 * static_cast<size_t>(count)),
        heap_(scratch + 3 * static_cast<size_t>(count)),
        heap_index_(scratch + 4 * static_cast<size_t>(count)),
        count_(count) {}

  void run(IdWriter& out) {
    link();
    while (heap_count_ > 0) merge_at(heap_[0]);
    for (uint32_t i = 0; i < count_; i = next_[i]) out.put(ids_[i]);
  }

 private:
  void link() {
    for (uint32_t i = 0; i < count_; ++i) {
      next_[i] = i + 1;
      previous_[i] = i - 1;
      heap_index_[i] = kIdNone;
      ranks_[i] = i + 1 < count_ ? find_rank(tables_, ids_[i], ids_[i + 1]) : kRankNone;
      if (ranks_[i] != kRankNone) {
        heap_index_[i] = heap_count_;
        heap_[heap_count_++] = i;
      }
    }
    for (uint32_t i = heap_count_ / 2; i-- > 0;) sift_down(i);
  }

  void merge_at(uint32_t place) {
    const uint32_t gone = next_[place];
    ids_[place] = tables_.merge_ids[ranks_[place]];
    next_[place] = next_[gone];
    if (next_[place] < count_) previous_[next_[place]] = place;
    if (heap_index_[gone] != kIdNone) change_rank(gone, kRankNone);
    const bool last = next_[place] >= count_;
    change_rank(place, last ? kRankNone : find_rank(tables_, ids_[place], ids_[next_[place]]));
    if (place > 0) {
      const uint32_t before = previous_[place];
      change_rank(before, find_rank(tables_, ids_[before], ids_[place]));
    }
  }

  bool comes_first(uint32_t a, uint32_t b) const {
    return ranks_[a] != ranks_[b] ? ranks_[a] < ranks_[b] : a < b;
  }

  void put_at(uint32_t index, uint32_t place) {
    heap_[index] = place;
    heap_index_[place] = index;
  }

  /// Sets the rank of a pair and moves it in, out of, or inside the heap.
  void change_rank(uint32_t place, uint32_t rank) {
    uint32_t index = heap_index_[place];
    ranks_[place] = rank;
    if (rank == kRankNone) {
      if (index == kIdNone) return;
      heap_index_[place] = kIdNone;
      const uint32_t moved = heap_[--heap_count_];
      if (index == heap_count_) return;
      put_at(index, moved);
    } else if (index == kIdNone) {
      index = heap_count_++;
      put_at(index, place);
    }
    sift_down(sift_up(index));
  }

  uint32_t sift_up(uint32_t index) {
    const uint32_t place = heap_[index];
    while (index > 0) {
      const uint32_t parent = (index - 1) / 2;
      if (!comes_first(place, heap_[parent])) break;
      put_at(index, heap_[parent]);
      index = parent;
    }
    put_at(index, place);
    return index;
  }

  void sift_down(uint32_t index) {
    const uint32_t place = heap_[index];
    for (;;) {
      uint32_t child = 2 * index + 1;
      if (child >= heap_count_) break;
      if (child + 1 < heap_count_ && comes_first(heap_[child + 1], heap_[child])) ++child;
      if (!comes_first(heap_[child], place)) break;
      put_at(index, heap_[child]);
      index = child;
    }
    put_at(index, place);
  }

  const Tables& tables_;
  uint32_t* ids_;
  uint32_t* next_;
  uint32_t* previous_;
  uint32_t* ranks_;
  uint32_t* heap_;
  uint32_t* heap_index_;
  uint32_t count_;
  uint32_t heap_count_ = 0;
};

}  // namespace

void merge_piece(const Tables& tables, std::span<const uint8_t> piece, std::span<uint32_t> scratch,
                 IdWriter& out) {
  const uint32_t word = find_word(tables, piece);
  if (word != kIdNone) return out.put(word);
  uint32_t short_ids[kShortSymbolsMax];
  uint32_t short_ranks[kShortSymbolsMax];
  const bool is_short = piece.size() <= kShortSymbolsMax;
  uint32_t* const ids = is_short ? short_ids : scratch.data();
  size_t count = 0;
  for (const uint8_t byte : piece) {
    const uint32_t id = tables.byte_ids[byte];
    if (id != kIdNone) ids[count++] = id;
  }
  if (is_short) {
    count = merge_short(tables, short_ids, short_ranks, count);
    for (size_t i = 0; i < count; ++i) out.put(short_ids[i]);
  } else {
    LongMerge(tables, ids, ids + count, static_cast<uint32_t>(count)).run(out);
  }
}

}  // namespace bitnet::tokenizer
