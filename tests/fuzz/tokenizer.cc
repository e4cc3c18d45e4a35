// The tokenizer over the demo's vocabulary: any bytes have ids, and the ids give the bytes back.
// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.inc"

#include <cstdlib>
#include <cstring>

#include "tokenizer/tokenizer.h"

using namespace bitnet;
using namespace bitnet::tokenizer;

namespace {

void must(bool condition) {
  if (!condition) std::abort();
}

/// A block of exactly `count` elements, so that a sanitizer sees the first byte past it;
/// aligned_alloc would want whole multiples of 64.
template <typename T>
std::span<T> block(size_t count) {
  void* data = nullptr;
  must(posix_memalign(&data, 64, count * sizeof(T)) == 0);
  return {static_cast<T*>(data), count};
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  const std::span<const uint8_t> text(data + 1, bytes - 1);
  const std::span<uint8_t> scratch =
      block<uint8_t>(data[0] % 4 == 3 ? encode_prompt_scratch_bytes(kTokenizerTables, text.size())
                                      : encode_scratch_bytes(kTokenizerTables, text.size()));
  const std::span<uint32_t> ids =
      block<uint32_t>(data[0] % 4 == 3 ? encode_prompt_ids_max(kTokenizerTables, text.size())
                                       : encode_ids_max(kTokenizerTables, text.size()));
  if (data[0] % 4 == 3) {
    const size_t cut = text.size() / 2;
    (void)encode_prompt(kTokenizerTables, true, {}, text.subspan(cut), scratch, ids);
  } else {
    const size_t count = encode(kTokenizerTables, text, scratch, ids);
    size_t place = 0;
    for (size_t i = 0; i < count; ++i) {
      must(ids[i] < kTokenizerTables.vocab_size);
      const Text piece = token_bytes(kTokenizerTables, ids[i]);
      must(piece.size() <= text.size() - place);
      must(std::memcmp(piece.data(), text.data() + place, piece.size()) == 0);
      place += piece.size();
    }
    must(place == text.size());
  }
  std::free(scratch.data());
  std::free(ids.data());
  return 0;
}
