// Cuts text into the pieces that are merged independently: the published patterns of byte-level BPE
// as one hand-written matcher.
// SPDX-License-Identifier: Apache-2.0
//
// With the parameters of Tables the matcher stands for these alternatives, tried in this order (s:
// contractions, L letters, N numbers, A the character that may begin a run of letters):
//   's|'t|'re|'ve|'m|'ll|'d        contractions_fold_case: any case, and U+017F for s
//   A?L+                           letters_after_any: A = [^\r\n\p{L}\p{N}], else one space;
//                                  letters_with_marks: L = [\p{L}\p{M}], else \p{L}
//   N{1,number_run_max} or  ?N+    the latter for number_run_max = 0
//    ?[^\s L N]+[\r\n]*            the newlines only with newline_rules
//   \s*[\r\n]+                     only with newline_rules
//   \s+(?!\S)
//   \s+
// Each character fits one of the alternatives, so nothing is left between the pieces. With
// digits_apart every numeric character is cut off first and the pattern sees only what lies between
// them.
#pragma once

#include <cstdint>
#include <span>

#include "base/text.h"
#include "tokenizer/tables.h"

namespace bitnet::tokenizer {

/// Walks over the pieces of a text, in time linear in its length.
class Splitter {
 public:
  Splitter(const Tables& tables, Text text)
      : tables_(tables),
        letters_(tables.letters_with_marks ? kLetter | kMark : kLetter),
        place_(text.data()),
        end_(text.data() + text.size()),
        limit_(place_) {}

  /// The next piece; empty at the end.
  Text next();

 private:
  const uint8_t* match_contraction(const uint8_t* p) const;
  const uint8_t* match_letters(const uint8_t* p) const;
  const uint8_t* match_numbers(const uint8_t* p) const;
  const uint8_t* match_signs(const uint8_t* p) const;
  const uint8_t* match_space(const uint8_t* p) const;
  const uint8_t* match(const uint8_t* p) const;

  const Tables& tables_;
  const uint8_t letters_;
  const uint8_t* place_;
  const uint8_t* end_;
  const uint8_t* limit_;  ///< where the pattern's text ends: end_, or the next numeric character
};

}  // namespace bitnet::tokenizer
