// bitnet-infer: one prompt on standard input, one answer on standard output.
// SPDX-License-Identifier: Apache-2.0
//
// Phases (docs/architecture.md): set up (arguments, configuration, model, memory, threads), lock
// (set_up numbers the steps of both), then run (read the prompt, compute, write the answer). A
// locked process reads standard input, writes its two streams, and exits; nothing else.
#include <cstring>

#include "base/version.h"
#include "crypto/crypto.h"
#include "format/config.h"
#include "format/executable.h"
#include "model/session.h"
#include "platform/fs.h"
#include "platform/lockdown.h"
#include "platform/os.h"
#include "programs/arguments.h"
#include "programs/bench.h"
#include "programs/hardening.h"
#include "programs/report.h"
#include "runtime/lockdown.h"
#include "runtime/log_ring.h"
#include "tokenizer.inc"
#include "tokenizer/tables.h"
#include "tokenizer/tokenizer.h"

namespace {

using namespace bitnet;
using programs::Line;
using programs::print;
using runtime::Event;

// A longer prompt would push everything else out of the ring.
constexpr size_t kLogTextMax = 64 * runtime::kLogDataBytes;

constexpr char kHelp[] =
    R"(usage: bitnet-infer --config FILE --seed N [--isa NAME] [--no-log] [--stats]
                    [--bench COUNT] [--debug-vocab FILE]
       bitnet-infer --config FILE --hardening-report [--json]

Reads one prompt from standard input and writes the model's answer to standard output.
The same input, configuration and seed give the same answer on every processor.

  --config FILE       settings; every key is required (docs/formats/config.md)
  --seed N            seed of the sampler, 0 ... 18446744073709551615
  --isa NAME          use this kernel table instead of the configuration's `isa`
  --no-log            leave the configuration's log alone, as the self-test of a release does
  --stats             afterwards one line of JSON with counts and times on standard error
  --bench COUNT       no prompt: decode COUNT tokens, two or more, and show how long each but
                      the first took, as JSON
  --debug-vocab FILE  check FILE against the compiled vocabulary, show each token on standard error
  --hardening-report  lock down as for a run, print the state of each layer, and exit;
                      with --json as one JSON object
  --version           print the version

example: echo "show failed systemd units" | ./bitnet-infer --config config.yaml --seed 42
exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not trusted, 5 environment
)";

struct Arguments {
  const char* config = nullptr;
  const char* isa = nullptr;
  const char* vocabulary = nullptr;
  uint64_t seed = 0;
  uint64_t bench = 0;  ///< tokens to time; 0: answer a prompt
  bool no_log = false;
  bool stats = false;
  bool report = false;
  bool json = false;
};

/// Everything that lives as long as the program.
struct Program {
  Arguments arguments;
  format::Config config;
  uint8_t config_text[kConfigBytesMax];
  runtime::Lockdown lockdown;
  model::Session session;
  runtime::LogWriter log;
  uint64_t answer_bytes = 0;
  std::span<uint8_t> prompt;   ///< prompt_bytes_max + 1, so that one byte too many is noticed
  std::span<uint8_t> scratch;  ///< of the tokenizer
  std::span<uint32_t> ids;
  std::span<uint64_t> times;  ///< of a bench
};

Program program;

Error parse_arguments(int count, char** values, Arguments* out) {
  programs::Option options[] = {
      {.name = "--config", .text = &out->config, .required = true},
      {.name = "--seed", .number = &out->seed},
      {.name = "--isa", .text = &out->isa},
      {.name = "--no-log", .flag = &out->no_log},
      {.name = "--stats", .flag = &out->stats},
      {.name = "--bench", .number = &out->bench, .number_min = 2, .number_max = kContextMax},
      {.name = "--debug-vocab", .text = &out->vocabulary},
      {.name = "--hardening-report", .flag = &out->report},
      {.name = "--json", .flag = &out->json},
  };
  BITNET_TRY(programs::parse_arguments(count, values, options, kHelp));
  if (out->json && !out->report) return Error{Status::kOptionMissing, "--hardening-report"};
  if (!options[1].given && !out->report) return Error{Status::kOptionMissing, "--seed"};
  return kNoError;
}

/// A path of the configuration for the kernel; valid until the next one.
Result<const char*> as_path(Text text, const char* key) {
  static uint8_t path[platform::kPathBytesMax];
  const bool fits =
      text.size() < sizeof path && std::memchr(text.data(), 0, text.size()) == nullptr;
  if (fits) return Writer(path).bytes(text).ended();
  return Error{Status::kConfigRange, key, 0, text.size(), sizeof path - 1};
}

/// The bytes of model.bin: of this executable, or of the file that the configuration names.
Result<std::span<const uint8_t>> find_model(Text model) {
  if (same(model, "sealed"))
    return format::find_payload(format::read_image(platform::program_headers()));
  return platform::map_file(BITNET_VALUE(as_path(model, "model")));
}

/// Code, constants and tokenizer, as the pages of the file that runs hold them: the model's part is
/// checked by its leaves.
Error check_image() {
  const Text file = BITNET_VALUE(platform::map_file("/proc/self/exe", Status::kOwnFileHidden));
  const auto elf = format::parse_elf(file);
  const bool good = elf.ok() && same(format::image_digest(elf.value()), elf.value().sealed_image());
  platform::unmap(file);
  return good ? kNoError : Error{Status::kSealBroken, "image", elf.value().note_offset};
}

/// The payload must be the model that the executable was sealed with, and every model must have
/// been made with the tokenizer that is compiled in.
Error check_belonging(const format::ModelHeader& header, bool sealed) {
  if (sealed && !same(header.root, format::sealed_root())) {
    return Error{Status::kModelDigest, "sealed root", offsetof(format::ModelHeader, root)};
  }
  const Text named = header.tokenizer_sha384;
  if (!same(named, Digest{}) && !same(named, kTokenizerTables.source_sha384)) {
    return Error{Status::kModelTokenizer, "tokenizer_sha384"};
  }
  if (kTokenizerTables.vocab_size > header.vocab_size) {
    return Error{Status::kModelTokenizer, "vocab_size"};
  }
  return kNoError;
}

/// What turns the prompt into ids is only needed before the first token.
void take_memory(void* context, Arena& arena, bool input) {
  auto& self = *static_cast<Program*>(context);
  const size_t prompt_bytes = self.config.prompt_bytes_max;
  const size_t text_bytes = prompt_bytes + self.config.system.size();
  if (input) {
    self.prompt = arena.take<uint8_t>(prompt_bytes + 1);
    self.scratch =
        arena.take<uint8_t>(tokenizer::encode_prompt_scratch_bytes(kTokenizerTables, text_bytes));
    return;
  }
  self.ids = arena.take<uint32_t>(tokenizer::encode_prompt_ids_max(kTokenizerTables, text_bytes));
  self.times = arena.take<uint64_t>(self.arguments.bench);
}

/// Holds FILE against the compiled vocabulary: line i is token i, escaped as Line::escaped does.
Error check_vocabulary_file(const char* path) {
  Text rest = BITNET_VALUE(platform::map_file(path, Status::kReadFailed));
  const uint32_t count = kTokenizerTables.vocab_size;
  Line line;
  for (uint32_t id = 0; id < count; ++id, line.clear()) {
    line.escaped(tokenizer::token_bytes(kTokenizerTables, id)).text("\n");
    if (!take_words(&rest, line.written())) {
      return Error{Status::kVocabularyFile, path, uint64_t{id} + 1};
    }
  }
  return rest.empty() ? kNoError : Error{Status::kVocabularyFile, path, uint64_t{count} + 1};
}

void show_token(const char* kind, uint32_t id) {
  Line line;
  line.text(kind).text(" ").number(id).text(" \"");
  line.escaped(tokenizer::token_bytes(kTokenizerTables, id)).text("\"\n");
  print(platform::kStderr, line);
}

/// Opens the log, where there is to be one; its first records say what runs here.
Error open_log(Program& self, Text config_digest, size_t config_bytes) {
  const format::Config& config = self.config;
  if (self.arguments.no_log || same(config.log, "off")) return kNoError;
  BITNET_TRY(self.log.open(BITNET_VALUE(as_path(config.log, "log"))));
  self.log.write(Event::kStart, platform::process_id(), self.arguments.seed, platform::unix_ns(),
                 text_of(kVersion));
  self.log.write(Event::kConfiguration, config_bytes, static_cast<uint64_t>(config.verify),
                 config.log_text, config_digest);
  return kNoError;
}

Error write_answer(void* context, uint32_t token, Text bytes) {
  auto& self = *static_cast<Program*>(context);
  if (self.config.log_text)
    self.log.write_text(Event::kAnswerText, bytes, self.answer_bytes, bytes.size());
  self.answer_bytes += bytes.size();
  if (self.arguments.vocabulary != nullptr && token != format::kNoToken)
    show_token("answer", token);
  return bytes.empty() ? kNoError : platform::write_all(platform::kStdout, bytes);
}

/// Steps 1 to 6: everything that will ever be opened is, then files are out of reach, then the
/// threads start, and last the filter falls. The order matters: a thread inherits step 4, Landlock
/// of most kernels does not reach one that runs already; pipes take the lowest numbers that step 4
/// has freed; starting a thread needs system calls that step 6 takes away.
Error set_up(Program& self) {
  // 1. Pointers that start-up has relocated become read-only: the C library of a static program
  // leaves them writable. Settings; the log.
  BITNET_TRY(platform::protect_read_only(format::read_image(platform::program_headers()).relro));
  const size_t config_bytes =
      BITNET_VALUE(platform::read_file(self.arguments.config, self.config_text));
  const std::span<uint8_t> text(self.config_text, config_bytes);
  const Digest config_digest = Sha3().add(text).digest();  // parsing resolves escapes in place
  self.config = BITNET_VALUE(format::parse_config(text));
  self.config.seed = self.arguments.seed;
  BITNET_TRY(open_log(self, config_digest, text.size()));
  if (!self.config.chat && !self.config.system.empty()) {  // it would be dropped without a word
    return Error{Status::kConfigRange, "system", 0, self.config.system.size(), 0};
  }
  // 2. The model's bytes; the program's own.
  const bool sealed = same(self.config.model, "sealed");
  const std::span<const uint8_t> file = BITNET_VALUE(find_model(self.config.model));
  const bool has_image = !same(format::sealed_root(), Digest{});  // whichever model is read
  if (has_image && self.config.verify != format::VerifyMode::kOff) BITNET_TRY(check_image());
  // 3. Other files.
  if (self.arguments.vocabulary != nullptr) {
    BITNET_TRY(check_vocabulary_file(self.arguments.vocabulary));
  }
  // 4. Lock the process. A report goes on, to tell the state of every layer.
  self.lockdown = runtime::Lockdown(self.config.accept_missing);
  const Error begun = self.lockdown.before_threads();
  if (!self.arguments.report || begun.status == Status::kStreamClosed) BITNET_TRY(begun);
  // 5. One arena, the kernels, the threads.
  format::SessionOptions options = self.config;
  options.cores = std::span(self.config.core_list).first(self.config.core_count);
  if (self.arguments.isa != nullptr) options.isa = text_of(self.arguments.isa);
  BITNET_TRY(self.session.open(file, options, {take_memory, &self}));
  // What was copied is not read again, and a dump would hold the pages of the file.
  if (!sealed && options.weights == format::WeightsPlace::kResident) platform::unmap(file);
  const format::ModelHeader& header = self.session.header();
  self.log.write(Event::kModel, header.file_bytes, header.leaf_count, sealed, header.root);
  BITNET_TRY(check_belonging(header, sealed));
  if (self.config.top_k > header.vocab_size) {
    return Error{Status::kConfigConflict, "top_k", 0, self.config.top_k, header.vocab_size};
  }
  // 6. Lock the memory, then all threads.
  const runtime::RunMemory memory{file, self.session.weights(), self.session.arena(),
                                  self.log.memory(), self.config.lock};
  const Error error = self.lockdown.after_threads(memory, self.session.team());
  uint64_t in_force = 0;
  for (uint32_t i = 0; i < format::kProtectionCount; ++i) {
    in_force |= uint64_t{self.lockdown.layer(i).on()} << i;
  }
  self.log.write(Event::kHardening, in_force, ~in_force & ((1u << format::kProtectionCount) - 1));
  return self.arguments.report ? kNoError : error;
}

/// Reads the prompt; one line break at its end is not part of it.
Result<Text> read_prompt(Program& self) {
  const size_t count = BITNET_VALUE(platform::read_all(platform::kStdin, self.prompt));
  if (count > self.config.prompt_bytes_max) {
    return Error{Status::kPromptTooLong, "standard input", 0, 0, self.config.prompt_bytes_max};
  }
  Text prompt = self.prompt.first(count);
  if (!prompt.empty() && prompt.back() == '\n') prompt = prompt.first(prompt.size() - 1);
  if (prompt.empty()) return Error{Status::kPromptEmpty, "standard input"};
  return prompt;
}

/// In the order of model::Finish.
constexpr const char* kFinishNames[] = {"stop_token", "stop_string", "length"};

void print_stats(Program& self, const model::GenerateResult& result, uint64_t start_ns) {
  const uint64_t decode_ns = result.end_ns - result.first_ns;
  const uint64_t decoded =
      result.new_tokens > 0 ? result.new_tokens - (result.finish != model::Finish::kStopToken) : 0;
  Line line;
  line.text("{\"prompt_tokens\": ").number(result.prompt_tokens);
  line.text(", \"new_tokens\": ").number(result.new_tokens);
  line.text(", \"finish\": \"").text(kFinishNames[static_cast<int>(result.finish)]);
  line.text("\", \"isa\": \"").text(self.session.transformer().kernels().name);
  line.text("\", \"threads\": ").number(self.config.threads);
  // Microseconds with three digits behind the point.
  line.text(", \"first_token_ms\": ").decimal((result.first_ns - start_ns) / 1000, 3);
  line.text(", \"prefill_ms\": ").decimal((result.first_ns - result.start_ns) / 1000, 3);
  line.text(", \"decode_ms\": ").decimal(decode_ns / 1000, 3);
  line.text(", \"decode_tokens\": ").number(decoded);
  // Tokens per second with three digits: tokens * 10^12 / ns.
  line.text(", \"decode_tokens_per_second\": ")
      .decimal(decode_ns == 0 ? 0 : decoded * 1000000000000u / decode_ns, 3);
  const model::HeadCost& head = result.head;
  const uint64_t choices = head.choices == 0 ? 1 : head.choices;
  line.text(", \"head_rows_exact\": ").decimal(10 * head.exact_rows / choices, 1);
  line.text(", \"head_bytes\": ").number(head.bytes / choices);
  line.text(", \"arena_bytes\": ").number(self.session.arena().size());
  print(platform::kStderr, line.text("}\n"));
}

Error answer(Program& self, uint64_t start_ns) {
  const Text prompt = BITNET_VALUE(read_prompt(self));
  const size_t count = BITNET_VALUE(tokenizer::encode_prompt(
      kTokenizerTables, self.config.chat, self.config.system, prompt, self.scratch, self.ids));
  const std::span<const uint32_t> ids = self.ids.first(count);
  if (self.arguments.vocabulary != nullptr) {
    for (const uint32_t id : ids) show_token("prompt", id);
  }
  const format::Config& config = self.config;
  self.log.write(Event::kPrompt, prompt.size(), ids.size());
  if (config.log_text) {
    const size_t total = prompt.size();
    const Text shown = prompt.first(total < kLogTextMax ? total : kLogTextMax);
    self.log.write_text(Event::kPromptText, shown, 0, total);
  }
  const model::GenerateOptions options{
      config.max_new_tokens, config, {config.stop, config.stop_count}};
  const model::GenerateResult result = BITNET_VALUE(self.session.generator().run(
      self.session.transformer(), &kTokenizerTables, ids, options, {write_answer, &self}));
  self.log.write(Event::kAnswer, result.new_tokens, (result.end_ns - start_ns) / 1000000,
                 self.answer_bytes, text_of(kFinishNames[static_cast<int>(result.finish)]));
  BITNET_TRY(platform::write_all(platform::kStdout, text_of("\n")));
  if (result.finish == model::Finish::kLength) {
    Line line;
    line.text("note: the answer was cut at `max_new_tokens` = ").number(config.max_new_tokens);
    print(platform::kStderr, line.text("\n"));
  }
  if (self.arguments.stats) print_stats(self, result, start_ns);
  return kNoError;
}

}  // namespace

int main(int argument_count, char** argument_values) {
  // First of all: who opens this memory earlier keeps it. Step 4 asks again, and reports.
  platform::forbid_inspection();
  platform::forbid_core_files();
  const uint64_t start_ns = platform::clock_ns();
  const Arguments& given = program.arguments;
  Error error = parse_arguments(argument_count, argument_values, &program.arguments);
  if (!failed(error)) error = set_up(program);
  int code = 0;
  if (!failed(error) && given.report) {
    code = programs::print_hardening(program.lockdown, given.json);
  } else if (!failed(error)) {
    error = given.bench != 0 ? programs::bench(program.session, program.times)
                             : answer(program, start_ns);
  }
  if (failed(error)) {
    code = programs::report(error);
    program.log.write(Event::kError, static_cast<uint64_t>(error.status), error.where, error.value,
                      text_of(error.subject));
  }
  program.log.write(Event::kExit, static_cast<uint64_t>(code));
  platform::wipe(program.session.arena());
  platform::exit_process(code);
}
