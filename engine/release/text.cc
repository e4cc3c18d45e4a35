// SPDX-License-Identifier: Apache-2.0
#include "release/text.h"

namespace bitnet::release {
namespace {

constexpr uint8_t kNoDigit = 0xff;

uint8_t base64_digit(uint8_t byte) {
  if (byte >= 'A' && byte <= 'Z') return static_cast<uint8_t>(byte - 'A');
  if (byte >= 'a' && byte <= 'z') return static_cast<uint8_t>(byte - 'a' + 26);
  if (byte >= '0' && byte <= '9') return static_cast<uint8_t>(byte - '0' + 52);
  return byte == '+' ? 62 : byte == '/' ? 63 : kNoDigit;
}

bool is_name_byte(uint8_t byte) {
  const uint8_t lower = byte | 0x20;
  return (lower >= 'a' && lower <= 'z') || (byte >= '0' && byte <= '9') || byte == '.' ||
         byte == '_' || byte == '-';
}

}  // namespace

bool decode_base64(Text text, std::span<uint8_t> out) {
  if (text.size() != base64_characters(out.size())) return false;
  uint32_t bits = 0;
  uint32_t bit_count = 0;
  size_t filled = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (filled == out.size()) {  // only padding is left; the bits it stands for must be zero
      if (text[i] != '=' || bits != 0) return false;
      continue;
    }
    const uint8_t digit = base64_digit(text[i]);
    if (digit == kNoDigit) return false;
    bits = bits << 6 | digit;
    bit_count += 6;
    if (bit_count < 8) continue;
    bit_count -= 8;
    out[filled++] = static_cast<uint8_t>(bits >> bit_count);
    bits &= (1u << bit_count) - 1;
  }
  return filled == out.size() && bits == 0;
}

void Scanner::fail(Status status, uint64_t value, uint64_t limit) {
  if (ok()) error_ = Error{status, subject_, line_, value, limit};
}

Text Scanner::take(size_t bytes) {
  if (ok() && bytes > rest_.size()) fail(Status::kReleaseTruncated);
  if (!ok()) return {};
  const Text taken = rest_.first(bytes);
  for (const uint8_t byte : taken) line_ += byte == '\n';
  rest_ = rest_.subspan(bytes);
  return taken;
}

bool Scanner::accept(const char* words) {
  const size_t length = std::strlen(words);
  if (!ok() || rest_.size() < length || !same(rest_.first(length), words)) return false;
  take(length);
  return true;
}

void Scanner::expect(const char* words) {
  if (!ok() || accept(words)) return;
  size_t common = 0;
  for (; common < rest_.size() && rest_[common] == static_cast<uint8_t>(words[common]); ++common) {
    line_ += words[common] == '\n';
  }
  fail(common == rest_.size() ? Status::kReleaseTruncated : Status::kReleaseSyntax);
}

uint64_t Scanner::number() {
  Text rest = rest_;
  uint64_t value = 0;
  const bool fits = take_number(&rest, 10, &value) && value <= kNumberMax;
  const size_t digits = rest_.size() - rest.size();
  if (!fits || (digits > 1 && rest_.front() == '0')) fail(Status::kReleaseNumber);
  take(digits);
  return ok() ? value : 0;
}

Text Scanner::name() {
  size_t length = 0;
  while (length < rest_.size() && is_name_byte(rest_[length])) ++length;
  const bool refused =
      length == 0 || length > kNameBytesMax || rest_.front() == '.' || rest_.front() == '-';
  if (refused) fail(Status::kReleaseName);
  return take(length);
}

void Scanner::hex(std::span<uint8_t> out) {
  for (uint8_t& byte : out) {
    Text pair = rest_.first(rest_.size() < 2 ? 0 : 2);
    uint64_t value = 0;
    if (!ok() || !take_number(&pair, 16, &value) || !pair.empty()) return fail(Status::kReleaseHex);
    byte = static_cast<uint8_t>(value);
    take(2);
  }
}

Digest Scanner::digest() {
  Digest out{};
  hex(out);
  return out;
}

Text Scanner::base64(std::span<uint8_t> out) {
  const size_t characters = base64_characters(out.size());
  const Text text = rest_.first(rest_.size() < characters ? rest_.size() : characters);
  if (ok() && !decode_base64(text, out)) fail(Status::kReleaseBase64);
  return take(text.size());
}

void Scanner::end() {
  if (!rest_.empty()) fail(Status::kReleaseTrailing, rest_.size());
}

}  // namespace bitnet::release
