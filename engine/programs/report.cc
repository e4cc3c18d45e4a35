// SPDX-License-Identifier: Apache-2.0
#include "programs/report.h"

#include "platform/os.h"

namespace bitnet::programs {

constexpr char kHex[] = "0123456789abcdef";

void Line::put(uint8_t byte) {
  if (count_ < sizeof buffer_) buffer_[count_++] = byte;
}

Line& Line::text(const char* words) {
  for (; *words != 0; ++words) put(static_cast<uint8_t>(*words));
  return *this;
}

Line& Line::hex(std::span<const uint8_t> bytes) {
  for (const uint8_t byte : bytes) {
    put(static_cast<uint8_t>(kHex[byte >> 4]));
    put(static_cast<uint8_t>(kHex[byte & 15]));
  }
  return *this;
}

Line& Line::escaped(std::span<const uint8_t> bytes) {
  for (const uint8_t& byte : bytes) {
    const bool plain = byte >= 0x20 && byte < 0x7f && byte != '\\';
    plain ? put(byte) : void(text("\\x").hex({&byte, 1}));
  }
  return *this;
}

Line& Line::quoted(std::span<const uint8_t> bytes) {
  put('"');
  for (const uint8_t& byte : bytes) {
    const bool plain = byte >= 0x20 && byte < 0x7f && byte != '\\' && byte != '"';
    plain ? put(byte) : void(text("\\u00").hex({&byte, 1}));
  }
  put('"');
  return *this;
}

Line& Line::hex_number(uint64_t value) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(value >> (56 - 8 * i));
  int first = 0;
  while (first < 7 && bytes[first] == 0) ++first;
  return hex(std::span<const uint8_t>(bytes).subspan(static_cast<size_t>(first)));
}

Line& Line::number(uint64_t value) { return decimal(value, 0); }

Line& Line::decimal(uint64_t value, uint32_t digits) {
  uint8_t reversed[24];
  uint32_t count = 0;
  do {
    reversed[count++] = static_cast<uint8_t>('0' + value % 10);
    value /= 10;
  } while (value != 0 || count <= digits);
  while (count > 0) {
    if (count == digits) put('.');
    put(reversed[--count]);
  }
  return *this;
}

StatusText status_text(Status status) {
  switch (status) {
#define BITNET_STATUS(name, value, exit_code, text, where, found, limit, hint) \
  case Status::name:                                                           \
    return {#name, exit_code, text, where, found, limit, hint};
#include "base/status.def"
#undef BITNET_STATUS
  }
  return {"", 70, "internal error", "", "", "", ""};
}

int report(const Error& error) {
  const StatusText status = status_text(error.status);
  Line line;
  line.text("error: ").text(status.text);
  if (error.subject[0] != 0) {
    const std::span<const uint8_t> subject = bytes_of(error.subject);
    line.text(": `").escaped(subject.first(subject.size() < 256 ? subject.size() : 256)).text("`");
  }
  line.text("\n");
  const char* separator = "  ";
  const char* labels[] = {status.where, status.found, status.limit};
  const uint64_t numbers[] = {error.where, error.value, error.limit};
  bool facts = false;
  for (int i = 0; i < 3; ++i) {
    if (labels[i][0] == 0) continue;
    line.text(separator).text(labels[i]).text(" ").number(numbers[i]);
    separator = ", ";
    facts = true;
  }
  if (facts) line.text("\n");
  if (status.hint[0] != 0) line.text("\nhint: ").text(status.hint).text("\n");
  (void)failed(platform::write_all(platform::kStderr, line.bytes()));
  return status.exit_code;
}

}  // namespace bitnet::programs
