// Strict reading of the text files of releases: one form for every value (docs/formats/release.md).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "base/text.h"
#include "crypto/crypto.h"

namespace bitnet::release {

inline constexpr size_t kNameBytesMax = 64;
inline constexpr uint64_t kNumberMax = (uint64_t{1} << 63) - 1;
inline constexpr size_t kDigestDigits = 2 * kDigestBytes;

inline Digest digest_of(Text bytes) { return Sha384().add(bytes).digest(); }

/// Reads a text from its begin to its end. The first failure stays: later calls do nothing and
/// return empty values, so that a caller asks for the error once.
class Scanner {
 public:
  /// `subject` names the text in errors.
  Scanner(Text text, const char* subject) : rest_(text), subject_(subject) {}

  /// Exactly these characters. kReleaseSyntax, or kReleaseTruncated where the text ends in them.
  void expect(const char* words);
  /// Whether these characters come next; reads them only then.
  bool accept(const char* words);
  /// Decimal, no leading zero, below 2^63. kReleaseNumber.
  uint64_t number();
  /// 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with . or -. kReleaseName.
  Text name();
  /// `out.size()` bytes in lower-case hexadecimal. kReleaseHex.
  void hex(std::span<uint8_t> out);
  Digest digest();
  /// `out.size()` bytes in canonical base64 with padding. kReleaseBase64. Returns its characters.
  Text base64(std::span<uint8_t> out);
  /// The next `bytes` bytes as they are. kReleaseTruncated.
  Text take(size_t bytes);
  /// Whether a list of `count` entries may go on. kReleaseCount.
  bool has_room(size_t count, size_t count_max) {
    if (count == count_max) fail(Status::kReleaseCount, count_max + 1, count_max);
    return count < count_max;
  }
  /// A line break.
  void end_line() { expect("\n"); }
  /// The end of the text. kReleaseTrailing.
  void end();

  /// Sets the error at the current line, unless there is one already.
  void fail(Status status, uint64_t value = 0, uint64_t limit = 0);
  bool ok() const { return error_.status == Status::kOk; }
  const Error& error() const { return error_; }
  bool at_end() const { return rest_.empty(); }
  Text rest() const { return rest_; }
  uint64_t line() const { return line_; }

 private:
  Text rest_;
  const char* subject_;
  uint64_t line_ = 1;
  Error error_;
};

/// Reads canonical base64 with padding that gives exactly `out.size()` bytes.
bool decode_base64(Text text, std::span<uint8_t> out);
/// Characters of `bytes` bytes in base64 with padding.
constexpr size_t base64_characters(size_t bytes) { return (bytes + 2) / 3 * 4; }

}  // namespace bitnet::release
