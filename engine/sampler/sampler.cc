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

// The weight of a logit is at most this times the weight of a bound of it: exp is within 2^-23 of
// the exact value relatively (docs/numerics.md), or both are 0.
constexpr double kBoundSlack = 1.0 + 0x1p-16;
// Two sums of the same kVocabSizeMax weights at most, in different orders, differ by less.
constexpr double kSumSlack = 0x1p-30;
static_assert(2.0 * kVocabSizeMax * 0x1p-53 < 0x1p-30);

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
  const bool sampled = options_.temperature > 0.0f;
  uint32_t best = 0;
  for (uint32_t i = 0; i < vocab_size_; ++i) {
    if (!is_finite(logits[i])) return Error{Status::kNotFinite, "logit", i};
    logits[i] = penalised(i, logits[i]);
    if (sampled) logits[i] = logits[i] / options_.temperature;
    if (logits[i] > logits[best]) best = i;
  }
  if (!sampled) return best;
  if (!is_finite(logits[best])) return Error{Status::kNotFinite, "logit", best};
  kernels.exp_sum(logits.data(), logits[best], vocab_size_, pad_lanes(vocab_size_), logits.data());
  uint32_t token = 0;
  ENGINE_CHECK(decide(logits.data(), nullptr, index, &token));
  return token;
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

/// The first place among the `sure` heaviest whose running sum is at least `target` (above it), and
/// that sum; place sure + 1 and the sum of all if there is none. order_ as after `sure` pops.
Sampler::Place Sampler::walk(const float* weights, uint32_t heap_count, uint32_t sure,
                             double target, bool above) const {
  double running = 0.0;
  for (uint32_t i = 1; i <= sure; ++i) {
    running = running + static_cast<double>(weights[order_[heap_count - i]]);
    if (above ? running > target : running >= target) return {i, running};
  }
  return {sure + 1, running};
}

bool Sampler::choose_screened(const kernels::KernelTable& kernels, const Screened& known,
                              uint64_t index, uint32_t* token) {
  const float largest = known.best / options_.temperature;
  if (!is_finite(largest)) return false;
  float* weights = known.weights;
  for (uint32_t i = 0; i < vocab_size_; ++i) {
    weights[i] = known.upper[i] / options_.temperature;
  }
  kernels.exp_sum(weights, largest, vocab_size_, pad_lanes(vocab_size_), weights);
  return decide(weights, known.unread, index, token);
}

/// Steps 4 and 5 of docs/numerics.md, Choosing a token, where `unread` is null. Else the weights
/// of other tokens than those are bounds, and the steps of The screened head say whether they leave
/// one choice; false if not.
bool Sampler::decide(const float* weights, const uint8_t* unread, uint64_t index, uint32_t* token) {
  uint32_t count = 0;
  double exact_sum = 0.0;
  double rest = 0.0;
  double rest_max = 0.0;
  for (uint32_t i = 0; i < vocab_size_; ++i) {
    const auto weight = static_cast<double>(weights[i]);
    if (unread == nullptr || unread[i] == 0) {
      order_[count++] = i;
      exact_sum = exact_sum + weight;
    } else {
      rest = rest + weight;
      if (weight > rest_max) rest_max = weight;
    }
  }
  rest_max = rest_max * kBoundSlack;
  const double slack = unread == nullptr ? 0.0 : kSumSlack;
  double low = exact_sum * (1.0 - slack);
  double high = (exact_sum + rest * kBoundSlack) * (1.0 + slack);
  // 1. The heaviest tokens whose order is sure: `sure` of them, `sum` together; no more than count.
  const auto top_p = static_cast<double>(options_.top_p);
  const uint32_t keep =
      options_.top_k != 0 && options_.top_k < vocab_size_ ? options_.top_k : vocab_size_;
  uint32_t sure = 0;
  double sum = 0.0;
  for (uint32_t i = count / 2; i-- > 0;) sift_down(weights, i, count);
  while (sure < count && sure < keep && (keep < vocab_size_ || sure == 0 || sum < high * top_p)) {
    const auto weight = static_cast<double>(weights[order_[0]]);
    if (unread != nullptr && weight <= rest_max) break;
    sum = sum + weight;
    pop(weights, count - sure++);
  }
  // 2. Between what the total lies. With top_k it is that of the k heaviest.
  if (keep < vocab_size_) {
    const double by_count = (sum + static_cast<double>(keep - sure) * rest_max) * (1.0 + slack);
    low = sum;
    high = sure == keep ? sum : by_count < high ? by_count : high;
  }
  // 3. How many are kept, and what they weigh: at least, at most.
  Place fewest = walk(weights, count, sure, low * top_p, false);
  Place most = walk(weights, count, sure, high * top_p, false);
  if (sure == keep) {
    if (fewest.count > keep) fewest.count = keep;
    if (most.count > keep) most.count = keep;
  } else if (most.count > sure) {
    most.sum = high;
  }
  // 4. The choice, where it is the same for both.
  const double unit = uniform(options_.seed, index);
  uint32_t place = walk(weights, count, sure, unit * fewest.sum, true).count;
  if (fewest.count == most.count && fewest.count <= sure) {
    if (place > fewest.count) place = fewest.count;
  } else if (place > fewest.count || place > sure ||
             place != walk(weights, count, sure, unit * most.sum, true).count) {
    return false;
  }
  *token = order_[count - place];
  return true;
}

}  // namespace bitnet::sampler
