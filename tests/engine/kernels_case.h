// One call of one kernel as data: its sizes, its inputs, and its outputs between guard bytes.
// SPDX-License-Identifier: Apache-2.0
//
// The walk over shapes, the evaluation of cases from stdin and the micro-benchmark all run kernels
// through `execute`. Inputs end where an unreadable page begins, so reading past one stops the
// program; outputs are pre-filled and lie between guard bytes.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/limits.h"
#include "kernels/table.h"

#if !defined(__SANITIZE_ADDRESS__) && defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_poison_memory_region(const volatile void* from, size_t bytes);
extern "C" void __asan_unpoison_memory_region(const volatile void* from, size_t bytes);
#endif

namespace kernels_test {

using bitnet::kernels::KernelTable;

enum class Operation : uint32_t {
  kTernaryMatmul,
  kInt8High,
  kInt8Low,
  kF32Matmul,
  kRmsNorm,
  kQuantizeInt8,
  kQuantizeSplit,
  kRelu2Gate,
  kSiluGate,
  kAddInPlace,
  kRope,
  kRopeAngles,
  kAttention,
  kExpSum,
  kStoreF16,
  kStoreInt8,
  kAttentionF16,
  kAttentionInt8,
};

constexpr const char* kOperationNames[] = {
    "ternary_matmul", "int8_high",  "int8_low",  "f32_matmul",   "rms_norm",      "quantize_int8",
    "quantize_split", "relu2_gate", "silu_gate", "add_in_place", "rope",          "rope_angles",
    "attention",      "exp_sum",    "store_f16", "store_int8",   "attention_f16", "attention_int8",
};
constexpr uint32_t kOperationCount = sizeof kOperationNames / sizeof kOperationNames[0];

constexpr uint32_t kInputCountMax = 8;
constexpr uint32_t kOutputCountMax = 3;
constexpr size_t kGuardBytes = 64;
constexpr uint8_t kGuardByte = 0x5a;
constexpr uint8_t kPrefillByte = 0xa5;

inline void stop(const char* reason) {
  std::fprintf(stderr, "kernels_test: %s\n", reason);
  std::exit(2);
}

/// Reusable memory whose contents end kGuardBytes or 0 bytes before an unreadable page.
class Slot {
 public:
  /// Makes room for `bytes` bytes at a multiple of `alignment`; the contents are undefined.
  void prepare(size_t bytes, size_t alignment, size_t tail) {
    const size_t needed = bytes + tail + kGuardBytes + alignment;
    if (needed > capacity_) grow(needed);
    bytes_ = bytes;
    data_ = region_ + (capacity_ - tail - bytes) / alignment * alignment;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(region_, capacity_);
    if (tail == 0) {  // an input: nothing but its bytes may be touched
      uint8_t* end = data_ + bytes;
      __asan_poison_memory_region(region_, static_cast<size_t>(data_ - region_));
      __asan_poison_memory_region(end, static_cast<size_t>(region_ + capacity_ - end));
    }
#endif
  }
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void grow(size_t needed) {
    constexpr size_t kPage = 65536;  // a multiple of every page size in use
    if (region_ != nullptr) munmap(region_, capacity_ + kPage);
    capacity_ = (needed + kPage - 1) / kPage * kPage;
    void* region = mmap(nullptr, capacity_ + kPage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) stop("no memory");
    region_ = static_cast<uint8_t*>(region);
    if (mprotect(region_ + capacity_, kPage, PROT_NONE) != 0) stop("mprotect failed");
  }

  uint8_t* region_ = nullptr;
  uint8_t* data_ = nullptr;
  size_t capacity_ = 0;
  size_t bytes_ = 0;
};

/// What `size` and `scalar` mean, and the inputs and outputs, is said at each `run_` function.
struct Case {
  Operation operation;
  uint32_t size[6] = {};
  float scalar = 0.0f;
  uint64_t seed = 0;
  uint32_t input_count = 0;
  Slot* inputs = nullptr;

  const uint8_t* bytes(uint32_t index) const { return inputs[index].data(); }
  const int8_t* int8s(uint32_t index) const { return inputs[index].as<const int8_t>(); }
  const int32_t* int32s(uint32_t index) const { return inputs[index].as<const int32_t>(); }
  const uint16_t* halves(uint32_t index) const { return inputs[index].as<const uint16_t>(); }
  const float* floats(uint32_t index) const { return inputs[index].as<const float>(); }
};

struct Outputs {
  uint32_t count = 0;
  bool prefill = true;  ///< the benchmark does without, so that it times the kernel alone
  Slot slots[kOutputCountMax];

  /// A further output of `bytes` pre-filled bytes between guards.
  uint8_t* add(size_t bytes, size_t alignment = 64) {
    Slot& slot = slots[count++];
    slot.prepare(bytes, alignment, kGuardBytes);
    if (!prefill) return slot.data();
    std::memset(slot.data() - kGuardBytes, kGuardByte, kGuardBytes);
    std::memset(slot.data(), kPrefillByte, bytes);
    std::memset(slot.data() + bytes, kGuardByte, kGuardBytes);
    return slot.data();
  }
  float* add_floats(size_t elements, size_t alignment = 64) {
    return reinterpret_cast<float*>(add(elements * sizeof(float), alignment));
  }
  /// An output that begins as a copy of input `index` of the case, for calls in place.
  float* add_copy(const Case& c, uint32_t index) {
    uint8_t* to = add(c.inputs[index].bytes());
    if (prefill) std::memcpy(to, c.inputs[index].data(), c.inputs[index].bytes());
    return reinterpret_cast<float*>(to);
  }
  bool guards_hold() const {
    for (uint32_t i = 0; i < count; ++i) {
      for (size_t g = 0; g < kGuardBytes; ++g) {
        const uint8_t* data = slots[i].data();
        if ((data - kGuardBytes)[g] != kGuardByte) return false;
        if (data[slots[i].bytes() + g] != kGuardByte) return false;
      }
    }
    return true;
  }
};

/// Elements of a strided output whose last token ends at `row_end`.
inline size_t strided(uint32_t token_count, uint32_t y_stride, uint32_t row_end) {
  return size_t{token_count - 1} * y_stride + row_end;
}

/// size: cols_padded, tile_begin, tile_end, token_count, stride, y_stride.
/// Inputs: weights, codes, sums, multipliers. Output: y.
inline void run_ternary_matmul(const KernelTable& table, const Case& c, Outputs& out) {
  const uint32_t* s = c.size;
  float* y = out.add_floats(strided(s[3], s[5], s[2] * 16));
  table.ternary_matmul({c.bytes(0), s[0], s[1], s[2]},
                       {c.int8s(1), s[4], c.int32s(2), c.floats(3), s[3]}, y, s[5]);
}

/// size: cols_padded, tile_begin, tile_end. Inputs, of all tiles from 0 on: high, hi, lo.
/// Outputs: the sums with hi, with lo.
inline void run_int8_high(const KernelTable& table, const Case& c, Outputs& out) {
  const uint32_t* s = c.size;
  const size_t bytes = size_t{s[2] - s[1]} * 16 * sizeof(int32_t);
  int32_t* hi = reinterpret_cast<int32_t*>(out.add(bytes));
  int32_t* lo = reinterpret_cast<int32_t*>(out.add(bytes));
  table.int8_high({c.bytes(0) + size_t{s[1]} * s[0] * 8, s[0], s[2] - s[1]},
                  {c.int8s(1), c.int8s(2)}, {hi, lo});
}

/// size: cols_padded, tile_begin, tile_end, first block, end block, step. Inputs, of all tiles from
/// 0 on: low, hi, lo, and of the tiles of the range: rows in any order, counted from its first, and
/// what the sums with hi and with lo begin from. Outputs: these sums.
inline void run_int8_low(const KernelTable& table, const Case& c, Outputs& out) {
  const uint32_t* s = c.size;
  const size_t row_bytes = bitnet::low_row_bytes(s[0]);
  auto* hi = reinterpret_cast<int32_t*>(out.add_copy(c, 4));
  auto* lo = reinterpret_cast<int32_t*>(out.add_copy(c, 5));
  const size_t listed = c.inputs[3].bytes() / sizeof(uint32_t);
  const size_t range = size_t{s[2] - s[1]} * 16;  // fewer than are listed in a benchmark
  const auto row_count = static_cast<uint32_t>(listed < range ? listed : range);
  table.int8_low({c.bytes(0) + size_t{s[1]} * 16 * row_bytes + s[3] * 64, row_bytes, s[4] - s[3],
                  s[5], c.inputs[3].as<uint32_t>(), row_count},
                 {c.int8s(1) + s[3] * 128, c.int8s(2) + s[3] * 128}, {hi, lo});
}

/// size: cols_padded, row_begin, row_end. Inputs: weights, x.
inline void run_f32_matmul(const KernelTable& table, const Case& c, Outputs& out) {
  const uint32_t* s = c.size;
  float* y = out.add_floats(s[2]);
  table.f32_matmul(c.floats(0), s[0], s[1], s[2], c.floats(1), y);
}

/// size: n, n_padded, in place; scalar: eps. Inputs: x, w. Output: y.
inline void run_rms_norm(const KernelTable& table, const Case& c, Outputs& out) {
  float* y = c.size[2] ? out.add_copy(c, 0) : out.add_floats(c.size[1]);
  table.rms_norm(c.size[2] ? y : c.floats(0), c.floats(1), c.size[0], c.size[1], c.scalar, y);
}

/// size: n_padded. Input: x. Outputs: codes; then the sum and s.
inline void run_quantize_int8(const KernelTable& table, const Case& c, Outputs& out) {
  int8_t* codes = reinterpret_cast<int8_t*>(out.add(c.size[0]));
  float* scalars = out.add_floats(2);
  int32_t sum = 0;
  scalars[1] = table.quantize_int8(c.floats(0), c.size[0], codes, &sum);
  std::memcpy(scalars, &sum, sizeof sum);
}

/// size: n_padded. Input: x. Outputs: hi; lo; then hi_sum, lo_sum and the scale.
inline void run_quantize_split(const KernelTable& table, const Case& c, Outputs& out) {
  int8_t* hi = reinterpret_cast<int8_t*>(out.add(c.size[0]));
  int8_t* lo = reinterpret_cast<int8_t*>(out.add(c.size[0]));
  float* scalars = out.add_floats(3);
  int32_t sums[2] = {};
  scalars[2] = table.quantize_split(c.floats(0), c.size[0], hi, lo, &sums[0], &sums[1]);
  std::memcpy(scalars, sums, sizeof sums);
}

/// size: n_padded, in place. Inputs: gate, up. Output: y.
inline void run_gate(bitnet::kernels::Gate gate, const Case& c, Outputs& out) {
  float* y = c.size[1] ? out.add_copy(c, 0) : out.add_floats(c.size[0]);
  gate(c.size[1] ? y : c.floats(0), c.floats(1), c.size[0], y);
}

/// size: n_padded. Inputs: x, y. Output: x.
inline void run_add_in_place(const KernelTable& table, const Case& c, Outputs& out) {
  table.add_in_place(out.add_copy(c, 0), c.floats(1), c.size[0]);
}

/// size: head_dim. Inputs, not aligned: x, sin, cos. Output: y.
inline void run_rope(const KernelTable& table, const Case& c, Outputs& out) {
  float* y = out.add_floats((c.size[0] + 15) / 16 * 16);
  table.rope(c.floats(0), c.floats(1), c.floats(2), c.size[0], y);
}

/// size: position, count. Input, not aligned: inv_freq. Outputs, not aligned: sin, cos.
inline void run_rope_angles(const KernelTable& table, const Case& c, Outputs& out) {
  float* sin = out.add_floats(c.size[1]);
  float* cos = out.add_floats(c.size[1]);
  table.rope_angles(c.size[0], c.floats(0), c.size[1], sin, cos);
}

/// A call of `attention` in any kind. size: position_count, head_dim_padded, head_count,
/// token_count, stride, score_stride; scalar: scale.
struct AttentionCall {
  bitnet::kernels::AttentionQueries queries;
  bitnet::kernels::AttentionRows rows;
};

inline AttentionCall begin_attention(const Case& c, Outputs& out) {
  const uint32_t* s = c.size;
  const size_t row_count = size_t{s[2]} * s[3];
  float* scores = out.add_floats(row_count * s[5]);
  return {{c.floats(0), s[4], s[2], s[3], s[0], s[1], c.scalar},
          {scores, s[5], out.add_floats(row_count * s[1])}};
}

/// What follows the weights of a row may be anything, as far as the last row goes.
inline void end_attention(const AttentionCall& call) {
  const uint32_t heads = call.queries.head_count;
  const uint32_t tokens = call.queries.token_count;
  const uint32_t end = (call.queries.position_count + tokens - 1 + 15) / 16 * 16;
  for (uint32_t row = 0; row < heads * tokens; ++row) {
    float* scores = call.rows.scores + row * call.rows.score_stride;
    for (uint32_t t = call.queries.position_count + row / heads; t < end; ++t) scores[t] = 0.0f;
  }
}

/// size, scalar: as AttentionCall. Inputs: q, k, v. Outputs: scores, out.
inline void run_attention(const KernelTable& table, const Case& c, Outputs& out) {
  const AttentionCall call = begin_attention(c, out);
  table.attention[0](call.queries, {c.floats(1), nullptr}, {c.floats(2), nullptr}, call.rows);
  end_attention(call);
}

/// size: n, n_padded, in place; scalar: max. Input: x. Outputs: e; then the sum.
inline void run_exp_sum(const KernelTable& table, const Case& c, Outputs& out) {
  float* e = c.size[2] ? out.add_copy(c, 0) : out.add_floats(c.size[1]);
  float* sum = out.add_floats(1);
  *sum = table.exp_sum(c.size[2] ? e : c.floats(0), c.scalar, c.size[0], c.size[1], e);
}

/// size: n_padded. Input: x. Output: half.
inline void run_store_f16(const KernelTable& table, const Case& c, Outputs& out) {
  uint16_t* half = reinterpret_cast<uint16_t*>(out.add(c.size[0] * sizeof(uint16_t)));
  table.store_f16(c.floats(0), c.size[0], half);
}

/// size: n_padded. Input: x. Outputs: codes; then the scale.
inline void run_store_int8(const KernelTable& table, const Case& c, Outputs& out) {
  int8_t* codes = reinterpret_cast<int8_t*>(out.add(c.size[0]));
  float* scale = out.add_floats(1);
  *scale = table.store_int8(c.floats(0), c.size[0], codes);
}

/// size, scalar, outputs: as attention. Inputs: q, k, v, the last two binary16.
inline void run_attention_f16(const KernelTable& table, const Case& c, Outputs& out) {
  const AttentionCall call = begin_attention(c, out);
  table.attention[1](call.queries, {c.halves(1), nullptr}, {c.halves(2), nullptr}, call.rows);
  end_attention(call);
}

/// size, scalar, outputs: as attention. Inputs: q, codes and scales of k, codes and scales of v.
inline void run_attention_int8(const KernelTable& table, const Case& c, Outputs& out) {
  const AttentionCall call = begin_attention(c, out);
  table.attention[2](call.queries, {c.int8s(1), c.floats(2)}, {c.int8s(3), c.floats(4)}, call.rows);
  end_attention(call);
}

/// Runs the case with the kernel of `table`; afterwards `out` holds its outputs.
inline void execute(const KernelTable& table, const Case& c, Outputs& out) {
  out.count = 0;
  switch (c.operation) {
    case Operation::kTernaryMatmul:
      return run_ternary_matmul(table, c, out);
    case Operation::kInt8High:
      return run_int8_high(table, c, out);
    case Operation::kInt8Low:
      return run_int8_low(table, c, out);
    case Operation::kF32Matmul:
      return run_f32_matmul(table, c, out);
    case Operation::kRmsNorm:
      return run_rms_norm(table, c, out);
    case Operation::kQuantizeInt8:
      return run_quantize_int8(table, c, out);
    case Operation::kQuantizeSplit:
      return run_quantize_split(table, c, out);
    case Operation::kRelu2Gate:
      return run_gate(table.relu2_gate, c, out);
    case Operation::kSiluGate:
      return run_gate(table.silu_gate, c, out);
    case Operation::kAddInPlace:
      return run_add_in_place(table, c, out);
    case Operation::kRope:
      return run_rope(table, c, out);
    case Operation::kRopeAngles:
      return run_rope_angles(table, c, out);
    case Operation::kAttention:
      return run_attention(table, c, out);
    case Operation::kExpSum:
      return run_exp_sum(table, c, out);
    case Operation::kStoreF16:
      return run_store_f16(table, c, out);
    case Operation::kStoreInt8:
      return run_store_int8(table, c, out);
    case Operation::kAttentionF16:
      return run_attention_f16(table, c, out);
    case Operation::kAttentionInt8:
      return run_attention_int8(table, c, out);
  }
}

/// RoPE takes a head inside a longer vector and tables of any length; all else is 64-byte aligned.
inline size_t input_alignment(Operation operation) {
  const bool any = operation == Operation::kRope || operation == Operation::kRopeAngles;
  return any ? 4 : 64;
}

}  // namespace kernels_test
