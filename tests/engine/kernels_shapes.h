// Shapes and random contents of the kernels' cases.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels_case.h"

namespace kernels_test {

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>(next() % limit); }
  uint32_t between(uint32_t first, uint32_t last) { return first + below(last - first + 1); }
  /// In [-1, 1).
  float unit() {
    return static_cast<float>(static_cast<int32_t>(next() >> 40) - (1 << 23)) * 0x1p-23f;
  }

 private:
  uint64_t state_;
};

/// What a vector of floats is filled with. None gives NaN, in any operation.
enum class Floats : uint32_t { kUnit, kWideExponents, kTiny, kLarge, kTies, kMixed };
constexpr uint32_t kFloatsCount = 6;

inline float draw_float(Random& random, Floats kind) {
  const float unit = random.unit();
  switch (kind) {
    case Floats::kUnit:
      return unit;
    case Floats::kWideExponents:
      return unit * __builtin_ldexpf(1.0f, static_cast<int>(random.below(40)) - 30);
    case Floats::kTiny: {  // zeros of both signs, subnormals, smallest normals
      const uint32_t bits = random.below(4) == 0 ? 0 : random.below(0x01000000);
      const uint32_t sign = random.below(2) << 31;
      return __builtin_bit_cast(float, bits | sign);
    }
    case Floats::kLarge:
      return unit * 1e16f;
    case Floats::kTies:
      return static_cast<float>(static_cast<int>(random.below(509)) - 254) * 0.5f;
    case Floats::kMixed:
      return draw_float(random, static_cast<Floats>(random.below(4)));
  }
  return unit;
}

/// Inputs of one case are added in the order that `execute` reads them.
class Filler {
 public:
  /// `plain`: floats are uniform in [-1, 1), as a benchmark wants them (subnormals cost time).
  Filler(Case& c, Random& random, bool plain) : case_(c), random_(random), plain_(plain) {
    c.input_count = 0;
  }

  void floats(size_t count, Floats kind, float factor = 1.0f) {
    float* to = reinterpret_cast<float*>(add(count * sizeof(float)));
    for (size_t i = 0; i < count; ++i) to[i] = draw_float(random_, kind) * factor;
    if (kind == Floats::kTies && count != 0) to[random_.next() % count] = 127.0f;  // s = 1 exactly
  }
  void floats(size_t count) { floats_times(count, 1.0f); }
  /// Any kind of floats, times `factor`.
  void floats_times(size_t count, float factor) {
    const Floats any = static_cast<Floats>(random_.below(kFloatsCount));
    floats(count, plain_ ? Floats::kUnit : any, factor);
  }

  /// Any finite binary16; or, every other time, magnitudes that the softmax can tell apart.
  void halves(size_t count) {
    uint16_t* to = reinterpret_cast<uint16_t*>(add(count * sizeof(uint16_t)));
    const bool near_one = plain_ || random_.below(2) == 0;
    for (size_t i = 0; i < count; ++i) {
      uint32_t bits = random_.below(65536);
      if (near_one) bits = (bits & 0x83ff) | (10 + random_.below(6)) << 10;
      if ((bits & 0x7c00) == 0x7c00) bits &= 0xbfff;
      to[i] = static_cast<uint16_t>(bits);
    }
  }
  /// Floats at, and just beside, a binary16 and the middle of two; infinities and NaN among them.
  void floats_near_halves(size_t count) {
    static const uint32_t kBelow[] = {0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff};
    uint32_t* to = reinterpret_cast<uint32_t*>(add(count * sizeof(float)));
    for (size_t i = 0; i < count; ++i) {
      const uint32_t exponent = random_.below(64) == 0 ? 255 : random_.between(98, 144);
      const uint32_t below = random_.below(4) == 0 ? random_.below(8192) : kBelow[random_.below(6)];
      to[i] = random_.below(2) << 31 | exponent << 23 | random_.below(1024) << 13 | below;
    }
  }

  void positive_floats(size_t count) {
    float* to = reinterpret_cast<float*>(add(count * sizeof(float)));
    for (size_t i = 0; i < count; ++i) to[i] = (random_.unit() + 1.0f) * 1e-3f;
  }

  /// `extreme`: 0 random, 1 the largest sum, 2 the smallest; so are all the following.
  void ternary_weights(size_t bytes, uint32_t extreme) {
    uint8_t* to = add(bytes);
    for (size_t i = 0; i < bytes; ++i) {
      const uint32_t digits = random_.below(81);
      const uint32_t codes =
          digits % 3 | digits / 3 % 3 << 2 | digits / 9 % 3 << 4 | digits / 27 << 6;
      to[i] = static_cast<uint8_t>(extreme == 0 ? codes : extreme == 1 ? 0xaa : 0x00);
    }
  }
  /// Any nibbles.
  void nibbles(size_t bytes, uint32_t extreme) {
    uint8_t* to = add(bytes);
    for (size_t i = 0; i < bytes; ++i) {
      to[i] = static_cast<uint8_t>(extreme == 0 ? random_.below(256) : extreme == 1 ? 0xff : 0x00);
    }
  }
  /// Both parts of a state, 0 from `cols` on.
  void split_state(uint32_t cols, uint32_t extreme) {
    const uint32_t padded = (cols + 127) / 128 * 128;
    for (uint32_t part = 0; part < 2; ++part) {
      activations(padded, part == 0 ? -127 : -64, part == 0 ? 127 : 63, extreme);
      std::memset(case_.inputs[case_.input_count - 1].data() + cols, 0, padded - cols);
    }
  }
  /// Rows 0 ... range - 1 (16, 32 or 48), or some of them in another order.
  void listed_rows(uint32_t range) {
    const uint32_t count = plain_ ? range : random_.between(1, range);
    const uint32_t first = plain_ ? 0 : random_.below(range);
    uint32_t* to = reinterpret_cast<uint32_t*>(add(size_t{count} * sizeof(uint32_t)));
    for (uint32_t i = 0; i < count; ++i) to[i] = (first + i * (plain_ ? 1 : 5)) % range;
  }
  /// Sums that a plane gives: any of their size.
  void plane_sums(size_t count, uint32_t cols) {
    int32_t* to = reinterpret_cast<int32_t*>(add(count * sizeof(int32_t)));
    for (size_t i = 0; i < count; ++i) {
      to[i] = static_cast<int32_t>(random_.below(2 * 15 * 127 * cols)) -
              static_cast<int32_t>(15 * 127 * cols);
    }
  }
  void activations(size_t count, int low, int high, uint32_t extreme) {
    uint8_t* to = add(count);
    const uint32_t range = static_cast<uint32_t>(high - low) + 1;
    for (size_t i = 0; i < count; ++i) {
      const int value = low + static_cast<int>(random_.below(range));
      to[i] = static_cast<uint8_t>(extreme == 0 ? value : extreme == 1 ? high : low);
    }
  }
  /// The sums of the first `cols` activations of each token of input `index`.
  void token_sums(uint32_t index, uint32_t token_count, size_t stride, uint32_t cols) {
    int32_t* to = reinterpret_cast<int32_t*>(add(token_count * sizeof(int32_t)));
    for (uint32_t t = 0; t < token_count; ++t) {
      to[t] = 0;
      for (uint32_t col = 0; col < cols; ++col) to[t] += case_.int8s(index)[t * stride + col];
    }
  }

 private:
  uint8_t* add(size_t bytes) {
    Slot& slot = case_.inputs[case_.input_count++];
    slot.prepare(bytes, input_alignment(case_.operation), 0);
    return slot.data();
  }

  Case& case_;
  Random& random_;
  bool plain_;
};

/// Bytes of activations from the first to the last that a kernel may read.
inline size_t activation_bytes(const Case& c) {
  return size_t{c.size[3] - 1} * c.size[4] + c.size[0];
}

inline void fill_integer_matmul(Case& c, Random& random, uint32_t weights, uint32_t activations,
                                bool plain) {
  Filler fill(c, random, plain);
  const size_t elements = size_t{c.size[2]} * 16 * c.size[0];
  if (c.operation == Operation::kTernaryMatmul) {
    fill.ternary_weights(elements / 4, weights);
    fill.activations(activation_bytes(c), -127, 127, activations);
    fill.token_sums(1, c.size[3], c.size[4], c.size[0]);
    fill.positive_floats(c.size[3]);
    return;
  }
  if (c.operation == Operation::kInt8High) {
    fill.nibbles(elements / 2, weights);
    return fill.split_state(c.size[0], activations);
  }
  const uint32_t rows = (c.size[2] - c.size[1]) * 16;
  fill.nibbles(c.size[2] * 16 * bitnet::low_row_bytes(c.size[0]), weights);
  fill.split_state(c.size[0], activations);
  fill.listed_rows(rows);
  fill.plane_sums(rows, c.size[0]);
  fill.plane_sums(rows, c.size[0]);
}

/// What stands for positions at and after `count` in the last blocks may be anything.
template <typename Element>
inline void spoil_floats(const Slot& keys, const Slot& values, uint32_t count, uint32_t dim,
                         Element any) {
  Element* block = keys.as<Element>() + size_t{(count - 1) / 16} * 16 * dim;
  for (uint32_t i = 0; i < dim; ++i) {
    for (uint32_t t = (count - 1) % 16 + 1; t < 16; ++t) block[i * 16 + t] = any;
  }
  block = values.as<Element>() + size_t{(count - 1) / 32} * 32 * dim;
  for (uint32_t i = 0; i < dim; ++i) {
    Element* column = block + i / 16 * (32 * 16) + i % 16;
    for (uint32_t t = (count - 1) % 32 + 1; t < 32; ++t) column[t * 16] = any;
  }
}

/// The same for codes, of which four lie together, and for values in blocks of 128 positions.
inline void spoil_codes(const Slot& keys, const Slot& values, uint32_t count, uint32_t dim) {
  int8_t* block = keys.as<int8_t>() + size_t{(count - 1) / 16} * 16 * dim;
  for (uint32_t i = 0; i < dim; ++i) {
    for (uint32_t t = (count - 1) % 16 + 1; t < 16; ++t) block[i / 4 * 64 + t * 4 + i % 4] = -128;
  }
  block = values.as<int8_t>() + size_t{(count - 1) / 128} * 128 * dim;
  for (uint32_t i = 0; i < dim; ++i) {
    int8_t* column = block + i / 16 * (128 * 16) + i % 16 * 4;
    for (uint32_t t = (count - 1) % 128 + 1; t < 128; ++t) column[t / 4 * 64 + t % 4] = -128;
  }
}

inline void fill_attention(Case& c, Filler& fill) {
  const uint32_t* s = c.size;
  const uint32_t count = s[0] + s[3] - 1;
  const uint32_t padded = (count + 15) / 16 * 16;
  const size_t keys = size_t{padded} * s[1];
  const size_t values = size_t{(count + 31) / 32 * 32} * s[1];
  c.scalar = 0.125f;
  fill.floats(size_t{s[3] - 1} * s[4] + s[2] * s[1]);
  if (c.operation == Operation::kAttention) {
    fill.floats_times(keys, 4.0f);
    fill.floats(values);
    spoil_floats(c.inputs[1], c.inputs[2], count, s[1], __builtin_nanf(""));
  } else if (c.operation == Operation::kAttentionF16) {
    fill.halves(keys);
    fill.halves(values);
    spoil_floats(c.inputs[1], c.inputs[2], count, s[1], uint16_t{0x7e00});
  } else {
    for (uint32_t part = 0; part < 2; ++part) {
      fill.activations(part == 0 ? keys : size_t{(count + 127) / 128 * 128} * s[1], -127, 127, 0);
      fill.positive_floats(padded);
      for (uint32_t t = count; t < padded; ++t) {
        c.inputs[2 + 2 * part].as<float>()[t] = __builtin_nanf("");
      }
    }
    spoil_codes(c.inputs[1], c.inputs[3], count, s[1]);
  }
}

/// Fills the inputs of a case whose operation and sizes are set. `extreme` < 9 picks, for the
/// integer matmuls, one of three weights and one of three activations; 0 is random.
inline void fill_case(Case& c, Random& random, uint32_t extreme, bool plain) {
  Filler fill(c, random, plain);
  const uint32_t* s = c.size;
  switch (c.operation) {
    case Operation::kTernaryMatmul:
    case Operation::kInt8High:
    case Operation::kInt8Low:
      return fill_integer_matmul(c, random, extreme % 3, extreme / 3, plain);
    case Operation::kF32Matmul:
      fill.floats(size_t{s[2]} * s[0]);
      return fill.floats(s[0]);
    case Operation::kRmsNorm:
      c.scalar = random.below(2) ? 1e-5f : 1e-6f;
      fill.floats(s[1]);
      return fill.floats(s[1], Floats::kUnit);
    case Operation::kQuantizeInt8:
    case Operation::kQuantizeSplit:
      return fill.floats(s[0]);
    case Operation::kRelu2Gate:
      fill.floats(s[0]);
      return fill.floats(s[0]);
    case Operation::kSiluGate:
      fill.floats_times(s[0], random.below(2) ? 60.0f : 1.0f);
      return fill.floats(s[0]);
    case Operation::kAddInPlace:
      fill.floats(s[0]);
      return fill.floats(s[0]);
    case Operation::kRope:
      fill.floats(s[0]);
      fill.floats(s[0] / 2, Floats::kUnit);
      return fill.floats(s[0] / 2, Floats::kUnit);
    case Operation::kRopeAngles:
      return fill.floats(s[1], Floats::kUnit);
    case Operation::kAttention:
    case Operation::kAttentionF16:
    case Operation::kAttentionInt8:
      return fill_attention(c, fill);
    case Operation::kExpSum:
      fill.floats_times(s[1], random.below(2) ? 90.0f : 1.0f);
      for (uint32_t i = 0; i < s[0]; ++i) {
        c.scalar = i == 0 || c.floats(0)[i] > c.scalar ? c.floats(0)[i] : c.scalar;
      }
      // What lies after n may be anything.
      for (uint32_t i = s[0]; i < s[1]; ++i) c.inputs[0].as<float>()[i] = __builtin_nanf("");
      return;
    case Operation::kStoreF16:
      return random.below(2) ? fill.floats(s[0]) : fill.floats_near_halves(s[0]);
    case Operation::kStoreInt8:
      return fill.floats(s[0]);
  }
}

inline uint32_t pick(Random& random, const uint32_t* from, size_t count) {
  return from[random.below(static_cast<uint32_t>(count))];
}

/// Any part of the blocks of a row, in any order that reaches each of them.
inline void shape_blocks(Case& c, Random& random) {
  c.size[4] = random.between(1, (c.size[0] + 127) / 128);
  c.size[3] = random.below(c.size[4]);
  const uint32_t count = c.size[4] - c.size[3];
  c.size[5] = count % 3 != 0 && random.below(2) ? 3 : count % 2 != 0 && random.below(2) ? 2 : 1;
}

/// Sizes of a matmul: minimum sizes first, then every token count, then random ones. More tokens
/// than 64 are a second group of those that share an unpacked part.
constexpr uint32_t kMatmulSized = 22;
inline void shape_matmul(Case& c, uint32_t index, Random& random) {
  static const uint32_t kTokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 64, 65, 130};
  static const uint32_t kCols[] = {16, 32, 48, 240, 256, 272, 496, 512, 528, 1040};
  const bool first = index < 10;
  c.size[0] = first ? kCols[index] : pick(random, kCols, 10);
  c.size[3] = first ? 1 : index < kMatmulSized ? kTokens[index - 10] : pick(random, kTokens, 9);
  c.size[1] = first ? 0 : random.below(4);
  c.size[2] = c.size[1] + (first ? 1 : random.between(1, 3));
  if (c.operation == Operation::kF32Matmul) {
    c.size[1] = random.below(9);
    c.size[2] = c.size[1] + random.between(first ? 0 : 1, 11);
    return;
  }
  c.size[4] = (c.size[0] + 63) / 64 * 64 + 64 * random.below(3);
  c.size[5] = c.size[2] * 16 + (first ? 0 : random.below(3) * 8 + random.below(2));
  if (c.operation == Operation::kInt8Low) shape_blocks(c, random);
}

/// The widest matrices that the limits allow, with the largest sums; several tokens go another way
/// than a single one.
inline void shape_widest(Case& c, uint32_t token_count) {
  const uint32_t cols = c.operation == Operation::kTernaryMatmul ? 131072 : 65536;
  const uint32_t size[6] = {cols, 0, 1, token_count, cols, 16};
  const uint32_t low_size[6] = {cols, 0, 1, 0, cols / 128, 1};
  std::memcpy(c.size, c.operation == Operation::kInt8Low ? low_size : size, sizeof size);
}

/// Every size of a group and every number of tokens that fit a call.
inline void shape_attention(Case& c, uint32_t position_count, Random& random) {
  c.size[0] = position_count;
  c.size[1] = 16 * random.between(1, 9);
  c.size[2] = random.below(3) == 0 ? random.between(1, 16) : random.between(1, 5);
  c.size[3] = random.between(1, 16 / c.size[2]);
  c.size[4] = (c.size[2] + random.below(3)) * c.size[1];
  c.size[5] = (c.size[0] + c.size[3] - 1 + 15) / 16 * 16 + 16 * random.below(3);
}

/// Sizes of the operations on vectors.
inline void shape_vector(Case& c, uint32_t index, Random& random) {
  const uint32_t n = index < 34 ? index + 1 : random.between(1, 3000);
  const uint32_t padded = (n + 15) / 16 * 16;
  switch (c.operation) {
    case Operation::kRmsNorm:
    case Operation::kExpSum:
      c.size[0] = n;
      c.size[1] = padded;
      c.size[2] = index % 2;
      return;
    case Operation::kRope:
      c.size[0] = 2 * (index < 34 ? n : random.between(1, 512));
      return;
    case Operation::kRopeAngles:
      c.size[0] = random.below(4) == 0 ? 0 : random.below(1u << random.between(1, 20));
      c.size[1] = ((index < 34 ? n : random.between(1, 512)) + 15) / 16 * 16;
      return;
    case Operation::kAttention:
    case Operation::kAttentionF16:
    case Operation::kAttentionInt8:
      return shape_attention(c, index < 34 ? n : random.between(1, 300), random);
    default:
      c.size[0] = padded;
      c.size[1] = index % 2;  // in place, where that is allowed
  }
}

inline bool is_integer_matmul(Operation operation) {
  return operation == Operation::kTernaryMatmul || operation == Operation::kInt8High ||
         operation == Operation::kInt8Low;
}

/// Nine extremes of weights and activations, of a single token as well where that matters.
inline uint32_t widest_count(Operation operation) {
  return operation == Operation::kTernaryMatmul ? 18 : is_integer_matmul(operation) ? 9 : 0;
}

/// Cases of an operation: index 0 ... case_count - 1. The same index and seed give the same bytes.
inline uint32_t case_count(Operation operation, uint32_t random_count) {
  const uint32_t sized =
      is_integer_matmul(operation) || operation == Operation::kF32Matmul ? kMatmulSized : 34;
  return widest_count(operation) + sized + random_count;
}

inline void make_case(Case& c, uint32_t index) {
  Random random(c.seed);
  const bool integer = is_integer_matmul(c.operation);
  std::memset(c.size, 0, sizeof c.size);
  c.scalar = 0.0f;
  const uint32_t widest = widest_count(c.operation);
  if (index < widest) {
    shape_widest(c, index < 9 ? 2 : 1);
    fill_case(c, random, index % 9, false);
  } else if (integer || c.operation == Operation::kF32Matmul) {
    shape_matmul(c, index - widest, random);
    fill_case(c, random, random.below(3) == 0 ? random.below(9) : 0, false);
  } else {
    shape_vector(c, index, random);
    fill_case(c, random, 0, false);
  }
}

}  // namespace kernels_test
