// From prompt ids to an answer: prefill in chunks, then one token at a time until something ends
// it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"
#include "model/transformer.h"
#include "sampler/sampler.h"
#include "tokenizer/tokenizer.h"

namespace bitnet::model {

struct GenerateOptions {
  uint32_t max_new_tokens;
  sampler::SamplerOptions sampler;
  std::span<const Text> stop;  ///< each of 1 … kStopStringBytesMax bytes
  /// A bench: times[i] gets the nanoseconds of token i, and stop tokens do not end the answer.
  /// Empty, or max_new_tokens of them.
  std::span<uint64_t> times = {};
};

enum class Finish : uint8_t {
  kStopToken,   ///< the model ended its answer
  kStopString,  ///< a stop string appeared; neither it nor anything after it is given out
  kLength,      ///< max_new_tokens reached
};

struct GenerateResult {
  uint32_t prompt_tokens;
  uint32_t new_tokens;  ///< without the stop token
  Finish finish;
  uint64_t start_ns;  ///< clock at the call
  uint64_t first_ns;  ///< clock when the first token was chosen
  uint64_t end_ns;
  HeadCost head;  ///< of this answer
};

/// Receives the answer as it grows; bytes may be empty (a special token, or text held back because
/// it may become a stop string). Returning an error ends the generation with it.
struct AnswerSink {
  Error (*write)(void* context, uint32_t token, Text bytes);
  void* context;
};

class Generator {
 public:
  Generator() = default;
  Generator(Arena& arena, const format::ModelHeader& header);

  /// `tables` may be null: then the sink gets ids only and stop strings are not looked for.
  /// kPromptEmpty; kContextOverflow if the prompt and max_new_tokens exceed the context;
  /// kTokenRange; kNotFinite; what the sink returns.
  Result<GenerateResult> run(Transformer& transformer, const tokenizer::Tables* tables,
                             std::span<const uint32_t> prompt, const GenerateOptions& options,
                             const AnswerSink& sink);

 private:
  Error prefill(Transformer& transformer, std::span<const uint32_t> prompt);
  bool is_stop_token(uint32_t token) const;
  Error emit(const AnswerSink& sink, const tokenizer::Tables* tables, uint32_t token,
             std::span<const Text> stop, bool* stopped);
  Error give(const AnswerSink& sink, size_t count);

  const format::ModelHeader* header_ = nullptr;
  sampler::Sampler sampler_;
  /// Bytes that may be the beginning of a stop string, followed by the bytes of the token under
  /// way.
  std::span<uint8_t> held_;
  size_t held_count_ = 0;
};

}  // namespace bitnet::model
