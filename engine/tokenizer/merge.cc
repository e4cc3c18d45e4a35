// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/merge.h"

#include <cstring>

namespace bitnet::tokenizer {

namespace {

constexpr uint64_t kHashMultiplier = 0x9e3779b97f4a7c15u;
constexpr uint32_t kRankNone = 0xffffffffu;

uint64_t hash_bytes(Text data) {
  uint64_t value = data.size();
  for (size_t at = 0; at < data.size(); at += sizeof value) {
    const size_t left = data.size() - at;
    uint64_t word = 0;
    std::memcpy(&word, data.data() + at, left < sizeof word ? left : sizeof word);
    value = (value ^ word) * kHashMultiplier;
    value ^= value >> 32;
  }
  return value;
}

/// The id of a piece that is one token as a whole, or kIdNone.
uint32_t find_word(const Tables& tables, Text piece) {
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

/// The symbols of a piece, with a binary heap of pairs by (rank, place). A symbol over the places
/// [first, last] has its id at `first`, and each of the two holds the other in ends_. Pairs that a
/// merge has changed stay in the heap and are passed over: n symbols need fewer than 2 n entries.
class Merge {
 public:
  Merge(const Tables& tables, uint32_t* scratch, uint32_t count)
      : tables_(tables),
        ids_(scratch),
        ends_(scratch + count),
        heap_(reinterpret_cast<uint64_t*>(scratch + 2 * size_t{count})),
        count_(count) {}

  void run(IdWriter& out) {
    for (uint32_t i = 0; i < count_; ++i) ends_[i] = i;
    for (uint32_t i = 0; i < count_; ++i) push_pair(i);
    while (heap_count_ > 0) {
      const uint64_t lowest = pop();
      merge_at(static_cast<uint32_t>(lowest), static_cast<uint32_t>(lowest >> 32));
    }
    for (uint32_t i = 0; i < count_; i = ends_[i] + 1) out.put(ids_[i]);
  }

 private:
  /// The rank of the symbol that begins at `place` with the next one.
  uint32_t rank_at(uint32_t place) const {
    const uint32_t next = ends_[place] + 1;
    return next < count_ ? find_rank(tables_, ids_[place], ids_[next]) : kRankNone;
  }

  void merge_at(uint32_t place, uint32_t rank) {
    if (rank_at(place) != rank) return;
    const uint32_t gone = ends_[place] + 1;
    const uint32_t last = ends_[gone];
    ids_[place] = tables_.merge_ids[rank];
    ids_[gone] = kIdNone;  // in no pair
    ends_[place] = last;
    ends_[last] = place;
    push_pair(place);
    if (place > 0) push_pair(ends_[place - 1]);
  }

  void push_pair(uint32_t place) {
    const uint64_t rank = rank_at(place);
    if (rank == kRankNone) return;
    uint32_t index = heap_count_++;
    const uint64_t pair = rank << 32 | place;
    for (; index > 0 && pair < heap_[(index - 1) / 2]; index = (index - 1) / 2) {
      heap_[index] = heap_[(index - 1) / 2];
    }
    heap_[index] = pair;
  }

  uint64_t pop() {
    const uint64_t lowest = heap_[0];
    const uint64_t moved = heap_[--heap_count_];
    uint32_t index = 0;
    for (uint32_t child = 1; child < heap_count_; child = 2 * index + 1) {
      if (child + 1 < heap_count_ && heap_[child + 1] < heap_[child]) ++child;
      if (moved <= heap_[child]) break;
      heap_[index] = heap_[child];
      index = child;
    }
    heap_[index] = moved;
    return lowest;
  }

  const Tables& tables_;
  uint32_t* ids_;
  uint32_t* ends_;
  uint64_t* heap_;
  uint32_t count_;
  uint32_t heap_count_ = 0;
};

}  // namespace

void merge_piece(const Tables& tables, Text piece, std::span<uint32_t> scratch, IdWriter& out) {
  const uint32_t word = find_word(tables, piece);
  if (word != kIdNone) return out.put(word);
  uint32_t count = 0;
  for (const uint8_t byte : piece) {
    const uint32_t id = tables.byte_ids[byte];
    if (id != kIdNone) scratch[count++] = id;
  }
  Merge(tables, scratch.data(), count).run(out);
}

}  // namespace bitnet::tokenizer
