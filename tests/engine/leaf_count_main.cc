// How often a run hashes each leaf: this program's own hash counts, and computes by the reference.
// SPDX-License-Identifier: Apache-2.0
//
//   leaf_count MODEL VERIFY HEAD THREADS LANES PROMPT ANSWER
//
// VERIFY and HEAD are the numbers of a format::VerifyMode and a model::HeadMode; PROMPT and ANSWER
// count tokens, without an answer no row of the head is read. Writes the counts as a JSON list.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "crypto/leaf_digests.h"
#include "model/session.h"
#include "platform/os.h"
#include "programs/report.h"
#include "sampler/sampler.h"

using namespace bitnet;

namespace {

constexpr uint64_t kLeavesMax = 4096;

uint32_t counts[kLeavesMax];
crypto::LeafHash hash;
sampler::Sampler chooser;
model::Session session;

void count_digests(const uint8_t* data, size_t leaf_bytes, uint64_t index, uint32_t count,
                   uint8_t* digests) {
  for (uint32_t i = 0; i < count; ++i) {
    __atomic_add_fetch(&counts[index + i], 1, __ATOMIC_RELAXED);
    crypto::leaf_digests_ref(data + i * leaf_bytes, leaf_bytes, index + i, 1,
                             digests + i * kDigestBytes);
  }
}

Error run(uint32_t prompt_tokens, uint32_t answer_tokens) {
  uint32_t ids[kPrefillChunkMax];
  const uint32_t vocab_size = session.header().vocab_size;
  for (uint32_t i = 0; i < prompt_tokens; ++i) ids[i] = i * 37 % vocab_size;
  chooser.start({});
  const auto mode = answer_tokens == 0 ? model::LogitsMode::kNone : model::LogitsMode::kChoice;
  Error error = session.transformer().forward({ids, prompt_tokens}, 0, mode);
  for (uint32_t i = 0; i < answer_tokens && !failed(error); ++i) {
    const Result<uint32_t> token = session.transformer().head().choose(chooser, i);
    if (!token.ok()) return token.error();
    ids[0] = token.value();
    error = session.transformer().forward({ids, 1}, prompt_tokens + i, mode);
  }
  return error;
}

}  // namespace

/// In place of the product's choice.
const crypto::LeafHash& crypto::choose_leaf_hash(const Processor&) { return hash; }

int main(int argument_count, char** arguments) {
  if (argument_count != 8) return 2;
  uint32_t numbers[8] = {};
  for (int i = 2; i < 8; ++i) {
    numbers[i] = static_cast<uint32_t>(std::strtoul(arguments[i], nullptr, 10));
  }
  hash = {"count", numbers[5], count_digests, nullptr};
  const Result<std::span<const uint8_t>> file = platform::map_file(arguments[1]);
  if (!file.ok()) return programs::report(file.error());
  const auto* isa = reinterpret_cast<const uint8_t*>("auto");
  model::SessionOptions options{64, 32, numbers[4], {isa, 4}};
  options.verify = static_cast<format::VerifyMode>(numbers[2]);
  options.head = static_cast<model::HeadMode>(numbers[3]);
  const auto take = [](void* header, Arena& arena, bool) {
    chooser = sampler::Sampler(arena, static_cast<const format::ModelHeader*>(header)->vocab_size);
  };
  auto* header = const_cast<uint8_t*>(file.value().data());
  Error error = session.open(file.value(), options, {take, header});
  if (!failed(error)) error = run(numbers[6], numbers[7]);
  if (failed(error)) return programs::report(error);
  for (uint64_t i = 0; i < session.header().leaf_count; ++i) {
    std::printf("%s%u", i == 0 ? "[" : ", ", counts[i]);
  }
  std::printf("]\n");
  return 0;
}
