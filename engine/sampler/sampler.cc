// SPDX-License-Identifier: Apache-2.0
#include "sampler/sampler.h"

#include <cstring>

#include "base/limits.h"
#include "sampler/philox.h"

namespace bitnet::sampler {
namespace {

bool is_finite(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return (bits & 0x7f800000u) != 0x7f800000u;
}

}  // namespace

Sampler::Sampler(Arena& arena, uint32_t vocab_size)
    : vocab_size_(vocab_size),
      seen_(arena.take<uint64_t>((vocab_size + 63) / 64)),
      order_(arena.take<uint32_t>(vocab_size)) {}

void Sampler::start(const SamplerOptions& options) {
  options_ = options;
  for (uint64_t& word : seen_) word = 0;
}

void Sampler::note(uint32_t token) { seen_[token / 64] |= uint64_t{1} << (token % 64); }

Result<uint32_t> Sampler::choose(const kernels::KernelTable& kernels, std::span<float> logits,
                                 uint64_t index) {
  ENGINE_CHECK(logits.size() == pad_lanes(vocab_size_));
  const float penalty = options_.repetition_penalty;
  const bool sampled = options_.temperature > 0.0f;
  uint32_t best = 0;
  for (uint32_t i = 0; i < vocab_size_; ++i) {
    if (!is_finite(logits[i])) return Error{Status::kNotFinite, "logit", i};
    if (penalty != 1.0f && (seen_[i / 64] >> (i % 64) & 1) != 0) {
      logits[i] = logits[i] > 0.0f ? logits[i] / penalty : logits[i] * penalty;
    }
    if (sampled) logits[i] = logits[i] / options_.temperature;
    if (logits[i] > logits[best]) best = i;
  }
  if (!sampled) return best;
  if (!is_finite(logits[best])) return Error{Status::kNotFinite, "logit", best};
  kernels.exp_sum(logits.data(), logits[best], vocab_size_, pad_lanes(vocab_size_), logits.data());
  return draw(logits.data(), uniform(options_.seed, index));
}

/// Restores the heap below `root`: the largest weight on top, of equal ones the smallest id.
void Sampler::sift_down(const float* weights, uint32_t root, uint32_t count) {
  const auto before = [weights](uint32_t a, uint32_t b) {
    return weights[a] > weights[b] || (weights[a] == weights[b] && a < b);
  };
  for (;;) {
    uint32_t first = root;
    for (uint32_t child = 2 * root + 1; child <= 2 * root + 2 && child < count; ++child) {
      if (before(order_[child], order_[first])) first = child;
    }
    if (first == root) return;
    const uint32_t id = order_[root];
    order_[root] = order_[first];
    order_[first] = id;
    root = first;
  }
}

/// Takes the heaviest token from the heap of `count` ids and puts it behind them.
uint32_t Sampler::pop(const float* weights, uint32_t count) {
  const uint32_t id = order_[0];
  order_[0] = order_[count - 1];
  order_[count - 1] = id;
  sift_down(weights, 0, count - 1);
  return id;
}

/// Keeps the heaviest tokens as top_k and top_p say, then walks them, heaviest first, until the
/// running weight passes `unit` of what was kept. Popped ids stand at the end of order_, heaviest
/// last.
uint32_t Sampler::draw(const float* weights, double unit) {
  double total = 0.0;
  for (uint32_t i = 0; i < vocab_size_; ++i) {
    total = total + static_cast<double>(weights[i]);
    order_[i] = i;
  }
  for (uint32_t i = vocab_size_ / 2; i-- > 0;) sift_down(weights, i, vocab_size_);
  uint32_t popped = 0;
  uint32_t keep_max = vocab_size_;
  if (options_.top_k != 0 && options_.top_k < vocab_size_) {
    // top_p then counts in the weight of the k heaviest.
    keep_max = options_.top_k;
    total = 0.0;
    while (popped < keep_max)
      total = total + static_cast<double>(weights[pop(weights, vocab_size_ - popped++)]);
  }
  const double wanted = total * static_cast<double>(options_.top_p);
  double kept_weight = 0.0;
  uint32_t kept = 0;
  while (kept < keep_max && (kept == 0 || kept_weight < wanted)) {
    if (kept == popped) pop(weights, vocab_size_ - popped++);
    kept_weight = kept_weight + static_cast<double>(weights[order_[vocab_size_ - ++kept]]);
  }
  const double target = unit * kept_weight;
  double running = 0.0;
  for (uint32_t i = 1; i < kept; ++i) {
    running = running + static_cast<double>(weights[order_[vocab_size_ - i]]);
    if (running > target) return order_[vocab_size_ - i];
  }
  return order_[vocab_size_ - kept];
}

}  // namespace bitnet::sampler
