// The engine behind a C interface, for Python on the builder side. Not part of what runs in the
// gap.
// SPDX-License-Identifier: Apache-2.0
//
// Every function that can fail returns the status as a number and fills a BitnetError.
// src/bitnet/engine/library.py declares the same structs; both check the version below.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>

#include "base/version.h"
#include "format/config.h"
#include "model/session.h"
#include "platform/os.h"
#include "programs/report.h"
#include "tokenizer/tables.h"
#include "tokenizer/tokenizer.h"

using namespace bitnet;

namespace {

struct Engine {
  model::Session session;
  std::span<const uint8_t> file;
};

const crypto::LeafHash& leaf_hash(uint32_t index) {
  ENGINE_CHECK(index < crypto::leaf_hashes().size());
  return crypto::leaf_hashes()[index];
}

const kernels::KernelLevel& kernel_level(uint32_t index) {
  ENGINE_CHECK(index < kernels::kernel_levels().size());
  return kernels::kernel_levels()[index];
}

bool has(bool Processor::* part) {
  return detect_processor(platform::hardware_capabilities()).*part;
}

}  // namespace

extern "C" {

struct BitnetError {
  uint32_t status;
  char subject[260];
  uint64_t where, value, limit;
};

struct BitnetOptions {
  const char* isa;
  uint32_t context, prefill_chunk, threads;
  uint32_t kv_cache;    ///< format::KvCacheKind
  uint32_t verify;      ///< format::VerifyMode
  uint32_t head;        ///< model::HeadMode
  const uint8_t* root;  ///< the file that the caller has looked at already, or null
};

struct BitnetText {
  const uint8_t* data;
  size_t bytes;
};

struct BitnetGenerateOptions {
  uint32_t max_new_tokens, top_k;
  float temperature, top_p, repetition_penalty;
  uint32_t stop_count;
  uint64_t seed;
  const BitnetText* stop;
};

struct BitnetGenerateResult {
  uint32_t prompt_tokens, new_tokens, finish, reserved;
  uint64_t prefill_ns, decode_ns;
  uint64_t head_choices, head_rows, head_bytes;  ///< model::HeadCost
};

/// Returns 0 to go on, anything else to end the generation.
using BitnetSink = int (*)(void* context, uint32_t token, const uint8_t* bytes, size_t count);

static uint32_t fill(BitnetError* out, const Error& error) {
  out->status = static_cast<uint32_t>(error.status);
  std::strncpy(out->subject, error.subject, sizeof out->subject - 1);
  out->where = error.where;
  out->value = error.value;
  out->limit = error.limit;
  return out->status;
}

const char* bitnet_version() { return kVersion; }

/// sizeof(Tables), which whoever fills one in another language must agree with.
size_t bitnet_tables_bytes() { return sizeof(tokenizer::Tables); }

uint32_t bitnet_status_row(uint32_t status, const char* columns[6]) {
  const programs::StatusText row = programs::status_text(static_cast<Status>(status));
  const char* values[6] = {row.name, row.text, row.where, row.found, row.limit, row.hint};
  std::memcpy(columns, values, sizeof values);
  return static_cast<uint32_t>(row.exit_code);
}

uint32_t bitnet_isa_count() { return static_cast<uint32_t>(kernels::kernel_levels().size()); }
const char* bitnet_isa_name(uint32_t index) { return kernel_level(index).name; }
uint32_t bitnet_isa_available(uint32_t index) { return has(kernel_level(index).available); }

void bitnet_close(void* handle) {
  auto* engine = static_cast<Engine*>(handle);
  engine->session.close();
  platform::unmap(engine->file);
  platform::unmap({reinterpret_cast<uint8_t*>(engine), sizeof(Engine)});
}

uint32_t bitnet_open(const char* path, const BitnetOptions* options, void** out,
                     BitnetError* error) {
  *out = nullptr;
  const struct {
    const char* name;
    uint32_t value, low, high;
  } ranges[] = {
      {"threads", options->threads, 1, kThreadCountMax},
      {"prefill_chunk", options->prefill_chunk, 1, kPrefillChunkMax},
      {"kv_cache", options->kv_cache, 0, format::kKvCacheKindCount - 1},
      {"head", options->head, 0, static_cast<uint32_t>(model::HeadMode::kFull)},
  };
  for (const auto& range : ranges) {
    if (range.value < range.low || range.value > range.high)
      return fill(error, {Status::kConfigConflict, range.name, 0, range.value, range.high});
  }
  const Result<std::span<const uint8_t>> file = platform::map_file(path);
  if (!file.ok()) return fill(error, file.error());
  const Result<std::span<uint8_t>> memory =
      platform::reserve_memory(sizeof(Engine), "arena", false);
  if (!memory.ok()) {
    platform::unmap(file.value());
    return fill(error, memory.error());
  }
  auto* engine = new (memory.value().data()) Engine();
  engine->file = file.value();
  const model::SessionOptions session_options{options->context,
                                              options->prefill_chunk,
                                              options->threads,
                                              text_of(options->isa),
                                              static_cast<format::KvCacheKind>(options->kv_cache),
                                              format::WeightsPlace::kMapped,
                                              {},
                                              static_cast<format::VerifyMode>(options->verify),
                                              static_cast<model::HeadMode>(options->head)};
  Error failure =
      engine->session.open(file.value(), session_options, {[](void*, Arena&, bool) {}, nullptr});
  if (!failed(failure) && options->root != nullptr &&
      std::memcmp(options->root, engine->session.header().root,
                  sizeof(format::ModelHeader::root)) != 0) {
    failure = {Status::kModelDigest, "root", offsetof(format::ModelHeader, root)};
  }
  if (failed(failure)) {
    bitnet_close(engine);
    return fill(error, failure);
  }
  *out = engine;
  return 0;
}

uint32_t bitnet_leaf_hash_count() { return static_cast<uint32_t>(crypto::leaf_hashes().size()); }
const char* bitnet_leaf_hash_name(uint32_t index) { return leaf_hash(index).name; }
uint32_t bitnet_leaf_hash_lanes(uint32_t index) { return leaf_hash(index).lanes; }
uint32_t bitnet_leaf_hash_available(uint32_t index) { return has(leaf_hash(index).available); }
void bitnet_leaf_digests(uint32_t hash, const uint8_t* data, size_t leaf_bytes, uint64_t index,
                         uint32_t count, uint8_t* digests) {
  leaf_hash(hash).digests(data, leaf_bytes, index, count, digests);
}

/// Holds a whole model.bin in memory (64-byte aligned) against root and leaves.
uint32_t bitnet_check_leaves(uint32_t hash, const uint8_t* file, size_t bytes, BitnetError* error) {
  const Result<const format::ModelHeader*> header = format::check_model_header({file, bytes});
  if (!header.ok()) return fill(error, header.error());
  const format::Leaves leaves({file, bytes}, leaf_hash(hash));
  const uint64_t leaf = leaves.first_changed(0, leaves.count());
  return leaf == leaves.count() ? 0 : fill(error, leaves.changed(leaf));
}

const char* bitnet_isa(void* handle) {
  return static_cast<Engine*>(handle)->session.transformer().kernels().name;
}

/// Logits of `count` ids from an empty cache: out is float[count][vocab_size].
uint32_t bitnet_logits(void* handle, const uint32_t* ids, size_t count, float* out,
                       BitnetError* error) {
  model::Session& session = static_cast<Engine*>(handle)->session;
  model::Transformer& transformer = session.transformer();
  const size_t vocab = session.header().vocab_size;
  const model::SessionOptions& options = transformer.options();
  if (count > options.context)
    return fill(error, {Status::kContextOverflow, "ids", 0, count, options.context});
  struct {
    model::Head& head;
    const float* state;
  } row{transformer.head(), nullptr};
  const auto compute = [](void* raw, uint32_t thread) {
    const auto& of = *static_cast<decltype(row)*>(raw);
    of.head.compute(of.state, thread, true);
  };
  for (size_t done = 0; done < count;) {
    const size_t rest = count - done;
    const size_t step = rest < options.prefill_chunk ? rest : options.prefill_chunk;
    const Error failure = transformer.forward({ids + done, step}, static_cast<uint32_t>(done),
                                              model::LogitsMode::kNone);
    if (failed(failure)) return fill(error, failure);
    for (size_t i = 0; i < step; ++i) {
      row.state = transformer.state(static_cast<uint32_t>(i));
      session.team().run(compute, &row);
      std::memcpy(out + (done + i) * vocab, row.head.logits().data(), vocab * 4);
    }
    done += step;
  }
  const Error changed = session.leaves().error();
  return failed(changed) ? fill(error, changed) : 0;
}

uint32_t bitnet_generate(void* handle, const tokenizer::Tables* tables, const uint32_t* ids,
                         size_t count, const BitnetGenerateOptions* options, BitnetSink sink,
                         void* context, BitnetGenerateResult* out, BitnetError* error) {
  struct Target {
    BitnetSink sink;
    void* context;
  } target{sink, context};
  Text stop[kStopStringCountMax];
  if (options->stop_count > kStopStringCountMax) {
    return fill(error, {Status::kConfigRange, "stop", 0, options->stop_count, kStopStringCountMax});
  }
  for (uint32_t i = 0; i < options->stop_count; ++i) {
    stop[i] = {options->stop[i].data, options->stop[i].bytes};
    if (stop[i].empty() || stop[i].size() > kStopStringBytesMax) {
      return fill(error, {Status::kConfigRange, "stop", i, stop[i].size(), kStopStringBytesMax});
    }
  }
  const model::AnswerSink answer{
      [](void* raw, uint32_t token, Text bytes) {
        const auto& to = *static_cast<Target*>(raw);
        const int code = to.sink(to.context, token, bytes.data(), bytes.size());
        return code == 0 ? kNoError : Error{Status::kWriteFailed, "sink"};
      },
      &target};
  model::Session& session = static_cast<Engine*>(handle)->session;
  const model::GenerateOptions generate{options->max_new_tokens,
                                        {options->temperature, options->top_k, options->top_p,
                                         options->repetition_penalty, options->seed},
                                        {stop, options->stop_count}};
  const Result<model::GenerateResult> result =
      session.generator().run(session.transformer(), tables, {ids, count}, generate, answer);
  if (!result.ok()) return fill(error, result.error());
  const model::GenerateResult& facts = result.value();
  const model::HeadCost& head = facts.head;
  *out = {facts.prompt_tokens,
          facts.new_tokens,
          static_cast<uint32_t>(facts.finish),
          0,
          facts.first_ns - facts.start_ns,
          facts.end_ns - facts.first_ns,
          head.choices,
          head.exact_rows,
          head.bytes};
  return 0;
}

size_t bitnet_encode_scratch_bytes(const tokenizer::Tables* tables, size_t text_bytes) {
  const size_t raw = tokenizer::encode_scratch_bytes(*tables, text_bytes);
  const size_t chat = tokenizer::encode_prompt_scratch_bytes(*tables, text_bytes);
  return raw > chat ? raw : chat;
}

size_t bitnet_encode_ids_max(const tokenizer::Tables* tables, size_t text_bytes) {
  const size_t raw = tokenizer::encode_ids_max(*tables, text_bytes);
  const size_t chat = tokenizer::encode_prompt_ids_max(*tables, text_bytes);
  return raw > chat ? raw : chat;
}

uint32_t bitnet_encode(const tokenizer::Tables* tables, const BitnetText* text, uint8_t* scratch,
                       size_t scratch_bytes, uint32_t* ids, size_t ids_max, size_t* count,
                       BitnetError* error) {
  (void)error;
  *count = tokenizer::encode(*tables, {text->data, text->bytes}, {scratch, scratch_bytes},
                             {ids, ids_max});
  return 0;
}

uint32_t bitnet_encode_chat(const tokenizer::Tables* tables, const BitnetText* system,
                            const BitnetText* user, uint8_t* scratch, size_t scratch_bytes,
                            uint32_t* ids, size_t ids_max, size_t* count, BitnetError* error) {
  const Result<size_t> result =
      tokenizer::encode_prompt(*tables, true, {system->data, system->bytes},
                               {user->data, user->bytes}, {scratch, scratch_bytes}, {ids, ids_max});
  if (!result.ok()) return fill(error, result.error());
  *count = result.value();
  return 0;
}

/// The token that the sampler chooses. `logits` is overwritten: float[vocab_size padded to 16],
/// 64-byte aligned; `memory` is 64-byte aligned scratch of bitnet_choose_bytes(vocab_size).
size_t bitnet_choose_bytes(uint32_t vocab_size) {
  Arena counting;
  const sampler::Sampler planned(counting, vocab_size);
  (void)planned;
  return counting.used();
}

uint32_t bitnet_choose(uint32_t isa, float* logits, uint32_t vocab_size, const uint32_t* seen,
                       size_t seen_count, const BitnetGenerateOptions* options, uint64_t index,
                       uint8_t* memory, uint32_t* chosen, BitnetError* error) {
  Arena arena(std::span(memory, bitnet_choose_bytes(vocab_size)));
  sampler::Sampler sampler(arena, vocab_size);
  sampler.start({options->temperature, options->top_k, options->top_p, options->repetition_penalty,
                 options->seed});
  for (size_t i = 0; i < seen_count; ++i) sampler.note(seen[i]);
  const Result<uint32_t> result =
      sampler.choose(kernel_level(isa).table(), {logits, pad_lanes(vocab_size)}, index);
  if (!result.ok()) return fill(error, result.error());
  *chosen = result.value();
  return 0;
}

struct BitnetConfig {
  BitnetText model, isa, system;
  uint32_t context, kv_cache, max_new_tokens, prompt_bytes_max, prefill_chunk, threads, chat, top_k;
  float temperature, top_p, repetition_penalty;
  uint32_t stop_count;
  BitnetText stop[kStopStringCountMax];
  BitnetText log;
  uint32_t weights, lock, accept_missing, verify, log_text, core_count;
  uint32_t cores[kThreadCountMax];
};

/// Parses a config.yaml in place, as bitnet-infer does.
uint32_t bitnet_parse_config(uint8_t* text, size_t bytes, BitnetConfig* out, BitnetError* error) {
  const Result<format::Config> result = format::parse_config({text, bytes});
  if (!result.ok()) return fill(error, result.error());
  const format::Config& c = result.value();
  const auto view = [](Text from) { return BitnetText{from.data(), from.size()}; };
  *out = {view(c.model),
          view(c.isa),
          view(c.system),
          c.context,
          static_cast<uint32_t>(c.kv_cache),
          c.max_new_tokens,
          c.prompt_bytes_max,
          c.prefill_chunk,
          c.threads,
          c.chat,
          c.top_k,
          c.temperature,
          c.top_p,
          c.repetition_penalty,
          c.stop_count,
          {},
          view(c.log),
          static_cast<uint32_t>(c.weights),
          static_cast<uint32_t>(c.lock),
          c.accept_missing,
          static_cast<uint32_t>(c.verify),
          c.log_text,
          c.core_count,
          {}};
  std::memcpy(out->cores, c.core_list, sizeof out->cores);
  for (uint32_t i = 0; i < c.stop_count; ++i) out->stop[i] = view(c.stop[i]);
  return 0;
}

/// Returns the count of bytes and their place.
size_t bitnet_token_bytes(const tokenizer::Tables* tables, uint32_t id, const uint8_t** data) {
  const std::span<const uint8_t> bytes = tokenizer::token_bytes(*tables, id);
  *data = bytes.data();
  return bytes.size();
}

}  // extern "C"
