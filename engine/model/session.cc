// SPDX-License-Identifier: Apache-2.0
#include "model/session.h"

#include "platform/os.h"

namespace bitnet::model {
namespace {

/// The level of that name, or for "auto" the strongest that this processor has.
Result<const kernels::KernelLevel*> choose_level(Text isa) {
  const Processor processor = detect_processor(platform::hardware_capabilities());
  const kernels::KernelLevel* best = nullptr;
  for (const kernels::KernelLevel& level : kernels::kernel_levels()) {
    if (processor.*level.available) best = &level;
    if (!same(isa, level.name)) continue;
    if (best == &level) return best;
    return Error{Status::kIsaUnavailable, level.name};
  }
  if (same(isa, "auto")) return best;
  return Error{Status::kIsaUnavailable, "isa"};
}

}  // namespace

void Session::take_memory(Arena& arena, const SessionOptions& options, const ExtraMemory& extra) {
  layers_ = arena.take<format::Layer>(header_->layer_count);
  const KvCache cache(arena, *header_, options.context, options.kv_cache);
  const size_t begin = arena.used();
  extra.take(extra.context, arena, true);
  arena.share_from(begin);
  transformer_ = Transformer(arena, *header_, options, cache, context_);
  arena.end_sharing();
  generator_ = Generator(arena, *header_);
  context_.leaves = LeafGuard(arena, *header_, options.verify);
  extra.take(extra.context, arena, false);
}

Error Session::open(std::span<const uint8_t> given, const SessionOptions& options,
                    const ExtraMemory& extra) {
  const bool resident = options.weights == format::WeightsPlace::kResident;
  weights_ = given;
  if (resident) weights_ = BITNET_VALUE(platform::copy_to_huge_pages(given));
  header_ = BITNET_VALUE(format::check_model_header(weights_));
  if (options.context == 0 || options.context > header_->context_max) {
    return Error{Status::kConfigConflict, "context", 0, options.context, header_->context_max};
  }
  const kernels::KernelLevel* level = BITNET_VALUE(choose_level(options.isa));

  Arena counting;
  take_memory(counting, options, extra);
  if (counting.overflowed()) return Error{Status::kNoMemory, "arena"};
  memory_ = BITNET_VALUE(platform::reserve_memory(counting.used(), "arena", resident));
  Arena arena(memory_);
  take_memory(arena, options, extra);
  arena.freeze();

  BITNET_TRY(context_.team.start(options.threads, options.cores));
  BITNET_TRY(context_.leaves.start(context_.team));
  context_.model = BITNET_VALUE(format::load_model(weights_, layers_));
  context_.kernels = level->table();
  return kNoError;
}

void Session::close() {
  context_.team.stop();
  platform::unmap(memory_);
}

}  // namespace bitnet::model
