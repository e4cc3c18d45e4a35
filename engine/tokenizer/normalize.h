// Unicode normal form C of a text that may hold invalid bytes, which pass through and separate.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/text.h"
#include "tokenizer/tables.h"

namespace bitnet::tokenizer {

/// Words of scratch that `normalize` needs for each byte of text: two for each code point of a
/// region's decomposition, which has at most as many code points as bytes.
inline constexpr size_t kNormalizeScratchWords = 2;

/// Returns NFC of `text`: `text` itself where it is already so by a quick look, else a part of
/// `out`. out: at least nfc_bytes_factor * text.size() bytes; scratch: at least
/// kNormalizeScratchWords * nfc_bytes_factor * text.size() words. Time linear in the length.
Text normalize(const Tables& tables, Text text, std::span<uint8_t> out,
               std::span<uint32_t> scratch);

}  // namespace bitnet::tokenizer
