// Test driver: reads requests from stdin, writes what the tokenizer gives to stdout. Little-endian.
// SPDX-License-Identifier: Apache-2.0
//
// Request   u8 operation, u32 bytes, then the bytes; operation 'u' has u32 bytes and a system
// message before.   'i' encode
//   'u' encode_chat                       'd' bytes of the tokens whose ids (u32) follow
//   't' encode the texts in the bytes, each after its u32 length; for measuring
// Answer    u32 count, then the ids (u32) or the bytes; 0xffffffff and a u32 status on an error.
//           't': u32 16, u64 ids, u64 nanoseconds.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "tokenizer.inc"
#include "tokenizer/tokenizer.h"

namespace {

using namespace bitnet;
using namespace bitnet::tokenizer;

constexpr uint32_t kFailed = 0xffffffffu;

bool read_all(void* data, size_t bytes) { return std::fread(data, 1, bytes, stdin) == bytes; }
void write_all(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, stdout) != bytes) std::abort();
}

/// A block of exactly `bytes`, so that a sanitizer sees the first byte past it; aligned_alloc would
/// want whole multiples of 64.
uint8_t* block(size_t bytes) {
  void* data = nullptr;
  if (posix_memalign(&data, 64, bytes) != 0) std::abort();
  return static_cast<uint8_t*>(data);
}

std::span<uint8_t> read_text() {
  uint32_t bytes = 0;
  if (!read_all(&bytes, 4)) std::abort();
  uint8_t* const data = static_cast<uint8_t*>(std::malloc(bytes == 0 ? 1 : bytes));
  if (data == nullptr || !read_all(data, bytes)) std::abort();
  return {data, bytes};
}

void answer_ids(const Result<size_t>& found, const uint32_t* ids) {
  if (!found.ok()) {
    const uint32_t failure[2] = {kFailed, static_cast<uint32_t>(found.error().status)};
    return write_all(failure, sizeof failure);
  }
  const uint32_t count = static_cast<uint32_t>(found.value());
  write_all(&count, 4);
  write_all(ids, sizeof(uint32_t) * count);
}

void answer_encode(std::span<uint8_t> text) {
  const size_t ids_max = encode_ids_max(kTokenizerTables, text.size());
  const size_t scratch_bytes = encode_scratch_bytes(kTokenizerTables, text.size());
  uint8_t* const scratch = block(scratch_bytes);
  uint32_t* const ids = static_cast<uint32_t*>(std::malloc(ids_max * 4 + 1));
  if (ids == nullptr) std::abort();
  answer_ids(encode(kTokenizerTables, text, {scratch, scratch_bytes}, {ids, ids_max}), ids);
  std::free(ids);
  std::free(scratch);
}

void answer_chat(std::span<uint8_t> system, std::span<uint8_t> user) {
  const size_t bytes = system.size() + user.size();
  const size_t ids_max = encode_prompt_ids_max(kTokenizerTables, bytes);
  const size_t scratch_bytes = encode_prompt_scratch_bytes(kTokenizerTables, bytes);
  uint8_t* const scratch = block(scratch_bytes);
  uint32_t* const ids = static_cast<uint32_t*>(std::malloc(ids_max * 4 + 1));
  if (ids == nullptr) std::abort();
  answer_ids(
      encode_prompt(kTokenizerTables, true, system, user, {scratch, scratch_bytes}, {ids, ids_max}),
      ids);
  std::free(ids);
  std::free(scratch);
}

void answer_decode(std::span<uint8_t> data) {
  uint32_t bytes = 0;
  for (int pass = 0; pass < 2; ++pass) {
    if (pass == 1) write_all(&bytes, 4);
    for (size_t i = 0; i + 4 <= data.size(); i += 4) {
      uint32_t id;
      std::memcpy(&id, data.data() + i, 4);
      const std::span<const uint8_t> token = token_bytes(kTokenizerTables, id);
      bytes += pass == 0 ? static_cast<uint32_t>(token.size()) : 0;
      if (pass == 1) write_all(token.data(), token.size());
    }
  }
}

uint64_t now_ns() {
  timespec now;
  if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) std::abort();
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

void answer_timed(std::span<uint8_t> texts) {
  const size_t ids_max = encode_ids_max(kTokenizerTables, texts.size());
  const size_t scratch_bytes = encode_scratch_bytes(kTokenizerTables, texts.size());
  uint8_t* const scratch = block(scratch_bytes);
  uint32_t* const ids = static_cast<uint32_t*>(std::malloc(ids_max * 4 + 1));
  if (ids == nullptr) std::abort();
  uint64_t answer[2] = {0, now_ns()};
  for (size_t place = 0; place < texts.size();) {
    uint32_t bytes;
    std::memcpy(&bytes, texts.data() + place, 4);
    const std::span<const uint8_t> text = texts.subspan(place + 4, bytes);
    const Result<size_t> found =
        encode(kTokenizerTables, text, {scratch, scratch_bytes}, {ids, ids_max});
    if (!found.ok()) std::abort();
    answer[0] += found.value();
    place += 4 + bytes;
  }
  answer[1] = now_ns() - answer[1];
  const uint32_t size = sizeof answer;
  write_all(&size, 4);
  write_all(answer, sizeof answer);
  std::fflush(stdout);
  std::free(ids);
  std::free(scratch);
}

}  // namespace

int main() {
  static char output[1 << 16];
  std::setvbuf(stdout, output, _IOFBF, sizeof output);
  for (uint8_t operation; read_all(&operation, 1);) {
    const std::span<uint8_t> system = operation == 'u' ? read_text() : std::span<uint8_t>{};
    const std::span<uint8_t> text = read_text();
    if (operation == 'i') {
      answer_encode(text);
    } else if (operation == 'u') {
      answer_chat(system, text);
    } else if (operation == 'd') {
      answer_decode(text);
    } else if (operation == 't') {
      answer_timed(text);
    } else {
      std::abort();
    }
    std::free(text.data());
    std::free(system.data());
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}
