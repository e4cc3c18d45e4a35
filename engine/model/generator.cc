// SPDX-License-Identifier: Apache-2.0
#include "model/generator.h"

#include <cstring>

#include "platform/os.h"

namespace bitnet::model {
namespace {

/// Length of the longest end of `text` that is a whole stop string, or the beginning of one.
size_t longest_at_end(Text text, std::span<const Text> stop, bool whole) {
  size_t longest = 0;
  for (const Text& word : stop) {
    const size_t least = whole ? word.size() : 1;
    const size_t most = whole ? word.size() : word.size() - 1;
    size_t length = most < text.size() ? most : text.size();
    for (; length > longest && length >= least; --length) {
      if (std::memcmp(text.last(length).data(), word.data(), length) == 0) longest = length;
    }
  }
  return longest;
}

}  // namespace

Generator::Generator(Arena& arena, const format::ModelHeader& header)
    : header_(&header),
      sampler_(arena, header.vocab_size),
      held_(arena.take<uint8_t>(2 * kStopStringBytesMax)) {}

bool Generator::is_stop_token(uint32_t token) const {
  bool found = false;
  for (uint32_t i = 0; i < header_->eos_count; ++i) found |= header_->eos_ids[i] == token;
  return found;
}

Error Generator::prefill(Transformer& transformer, std::span<const uint32_t> prompt) {
  const size_t chunk = transformer.options().prefill_chunk;
  for (size_t done = 0; done < prompt.size();) {
    const size_t count = prompt.size() - done < chunk ? prompt.size() - done : chunk;
    const LogitsMode mode = done + count == prompt.size() ? LogitsMode::kChoice : LogitsMode::kNone;
    BITNET_TRY(transformer.forward(prompt.subspan(done, count), static_cast<uint32_t>(done), mode));
    done += count;
  }
  return kNoError;
}

/// Gives out the first `count` of the bytes held.
Error Generator::give(const AnswerSink& sink, size_t count) {
  if (count == 0) return kNoError;
  const Error error = sink.write(sink.context, format::kNoToken, held_.first(count));
  held_count_ -= count;
  std::memmove(held_.data(), held_.data() + count, held_count_);
  return error;
}

/// Gives out a token's bytes, except those that may still become a stop string.
Error Generator::emit(const AnswerSink& sink, const tokenizer::Tables* tables, uint32_t token,
                      std::span<const Text> stop, bool* stopped) {
  *stopped = false;
  const bool silent = tables == nullptr || tokenizer::token_is_special(*tables, token);
  const Text bytes = tables == nullptr ? Text{} : tokenizer::token_bytes(*tables, token);
  if (stop.empty() || silent) {
    // A control token is not written, but all of its name may be a stop string.
    for (const Text& word : stop) *stopped |= same(word, bytes);
    return sink.write(sink.context, token, silent ? Text{} : bytes);
  }
  BITNET_TRY(sink.write(sink.context, token, {}));
  for (size_t i = 0; i < bytes.size(); ++i) {
    held_[held_count_++] = bytes[i];
    const Text held = held_.first(held_count_);
    if (const size_t length = longest_at_end(held, stop, true); length > 0) {
      held_count_ -= length;
      *stopped = true;
      return give(sink, held_count_);
    }
    if (i + 1 < bytes.size() && held_count_ < held_.size()) continue;
    const size_t ready = held_count_ - longest_at_end(held, stop, false);
    BITNET_TRY(give(sink, ready));
  }
  return kNoError;
}

Result<GenerateResult> Generator::run(Transformer& transformer, const tokenizer::Tables* tables,
                                      std::span<const uint32_t> prompt,
                                      const GenerateOptions& options, const AnswerSink& sink) {
  GenerateResult result{};
  result.start_ns = platform::clock_ns();
  const uint64_t context = transformer.options().context;
  if (prompt.empty()) return Error{Status::kPromptEmpty, "prompt"};
  if (prompt.size() + uint64_t{options.max_new_tokens} > context) {
    return Error{Status::kContextOverflow, "prompt", options.max_new_tokens, prompt.size(),
                 context};
  }
  result.prompt_tokens = static_cast<uint32_t>(prompt.size());
  result.finish = Finish::kLength;
  const HeadCost before = transformer.head().cost();
  held_count_ = 0;
  sampler_.start(options.sampler);
  BITNET_TRY(prefill(transformer, prompt));
  for (const uint32_t token : prompt) sampler_.note(token);
  uint64_t last_ns = result.start_ns;
  while (result.new_tokens < options.max_new_tokens) {
    const uint32_t token = BITNET_VALUE(transformer.head().choose(sampler_, result.new_tokens));
    if (result.first_ns == 0) result.first_ns = platform::clock_ns();
    if (!options.times.empty()) {
      const uint64_t now_ns = platform::clock_ns();
      options.times[result.new_tokens] = now_ns - last_ns;
      last_ns = now_ns;
    } else if (is_stop_token(token)) {
      result.finish = Finish::kStopToken;
      break;
    }
    bool stopped = false;
    BITNET_TRY(emit(sink, tables, token, options.stop, &stopped));
    ++result.new_tokens;
    if (stopped) {
      result.finish = Finish::kStopString;
      break;
    }
    if (result.new_tokens == options.max_new_tokens) break;
    sampler_.note(token);
    const uint32_t position = result.prompt_tokens + result.new_tokens - 1;
    BITNET_TRY(
        transformer.forward(std::span<const uint32_t>(&token, 1), position, LogitsMode::kChoice));
  }
  result.end_ns = platform::clock_ns();
  const HeadCost& after = transformer.head().cost();
  result.head = {after.choices - before.choices, after.exact_rows - before.exact_rows,
                 after.bytes - before.bytes};
  BITNET_TRY(give(sink, held_count_));
  return result;
}

}  // namespace bitnet::model
