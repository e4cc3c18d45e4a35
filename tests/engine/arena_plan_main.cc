// What a session takes of the arena for a geometry, without a model: the plan's first pass.
// SPDX-License-Identifier: Apache-2.0
//
//   arena_plan HIDDEN INTERMEDIATE LAYERS HEADS KV_HEADS HEAD_DIM VOCAB CONTEXT CHUNK THREADS
//
// Writes the bytes of the KV cache in f16 and of everything else.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "model/generator.h"
#include "model/kv_cache.h"
#include "model/transformer.h"

using namespace bitnet;

int main(int argument_count, char** arguments) {
  if (argument_count != 11) return 2;
  uint32_t numbers[10];
  for (int i = 0; i < 10; ++i) {
    numbers[i] = static_cast<uint32_t>(std::strtoul(arguments[i + 1], nullptr, 10));
  }
  format::ModelHeader header{};
  header.hidden_size = numbers[0];
  header.intermediate_size = numbers[1];
  header.layer_count = numbers[2];
  header.head_count = numbers[3];
  header.kv_head_count = numbers[4];
  header.head_dim = numbers[5];
  header.vocab_size = numbers[6];
  header.embedding_kind = header.head_kind = format::kInt8Rows;
  Arena cache_plan;
  const model::KvCache cache(cache_plan, header, numbers[7], format::KvCacheKind::kF16);
  Arena plan;
  model::Context context;
  const model::Transformer transformer(plan, header, {numbers[7], numbers[8], numbers[9]}, cache,
                                       context);
  const model::Generator generator(plan, header);
  std::printf("%zu %zu\n", cache_plan.used(), plan.used());
  return 0;
}
