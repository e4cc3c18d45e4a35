// Everything that a run needs, set up once: a checked model, one arena, a kernel table, a team of
// threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "format/model_file.h"
#include "model/generator.h"
#include "model/leaf_guard.h"
#include "model/transformer.h"
#include "runtime/threads.h"

namespace bitnet::model {

/// Memory that the program wants in the same arena, taken twice: to count and to have it. What is
/// taken as `input` is the program's until the first token is computed.
struct ExtraMemory {
  void (*take)(void* context, Arena& arena, bool input);
  void* context;
};

/// Must not move after `open`.
class Session {
 public:
  /// Checks `file`, plans and reserves the memory, chooses the kernels, starts the threads. After
  /// it the arena is frozen. Errors of check_model_header and load_model; kModelLeaf;
  /// kConfigConflict (subject = the option); kIsaUnavailable; kNoMemory; kNoThread.
  Error open(std::span<const uint8_t> file, const SessionOptions& options,
             const ExtraMemory& extra);
  /// Gives threads and memory back, also after `open` has failed; the file stays the caller's.
  void close();

  const format::ModelHeader& header() const { return *header_; }
  Transformer& transformer() { return transformer_; }
  Generator& generator() { return generator_; }
  std::span<uint8_t> arena() { return memory_; }
  /// The model's bytes that a run reads: the file's own pages, or their copy.
  std::span<const uint8_t> weights() const { return weights_; }
  runtime::ThreadTeam& team() { return context_.team; }
  const LeafGuard& leaves() const { return context_.leaves; }

 private:
  void take_memory(Arena& arena, const SessionOptions& options, const ExtraMemory& extra);

  const format::ModelHeader* header_ = nullptr;
  std::span<uint8_t> memory_;
  std::span<const uint8_t> weights_;
  std::span<format::Layer> layers_;
  Context context_;
  Transformer transformer_;
  Generator generator_;
};

}  // namespace bitnet::model
