// The operations of the forward pass as one table of functions, chosen once at start.
// SPDX-License-Identifier: Apache-2.0
//
// Every function here is defined exactly in docs/numerics.md, and as plain code that is not part of
// the engine in tests/engine/kernels_definition.h. Every implementation returns the same bits. No
// function allocates, fails, or keeps state.
//
// Shapes: vectors are padded to multiples of 16 with +0 (kLanes); `x_stride` and friends count
// elements. float pointers are 64-byte aligned unless said otherwise; weights are 64-byte aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/processor.h"

namespace bitnet::kernels {

/// Weight rows of one matrix in tiles of 16, as docs/formats/model.md lays them out.
struct TileRange {
  const uint8_t* weights;  ///< first byte of tile 0
  uint32_t cols_padded;    ///< multiple of 16
  uint32_t tile_begin;     ///< this call computes tiles [tile_begin, tile_end)
  uint32_t tile_end;
};

/// Quantised activations of `token_count` tokens.
struct Int8Tokens {
  const int8_t* codes;       ///< [token_count][stride], 64-byte aligned, padding 0
  size_t stride;             ///< >= cols_padded, multiple of 64
  const int32_t* sums;       ///< [token_count], sum of the codes of the token
  const float* multipliers;  ///< [token_count], what the integer sum is multiplied with
  uint32_t token_count;      ///< >= 1
};

/// y[t][r] = float(sum_c w[r][c] * codes[t][c]) * multipliers[t] for the rows of the tiles.
/// Ternary weights (kind 1). Padded rows get +0.
/// y: float[token_count][y_stride], row r of the matrix at y[t * y_stride + r].
using TernaryMatmul = void (*)(const TileRange& tiles, const Int8Tokens& x, float* y,
                               size_t y_stride);

/// A hidden state, or its columns from a multiple of kLowBlockCols on, as 15-bit integers in two
/// int8 parts: q = 128 * hi + lo.
struct SplitState {
  const int8_t* hi;  ///< 64-byte aligned, 0 from the width up to a multiple of kLowBlockCols
  const int8_t* lo;
};

/// The high plane of int8 rows (kind 3), in tiles of 16 rows.
struct HighTiles {
  const uint8_t* high;   ///< of the first tile, 64-byte aligned
  uint32_t cols_padded;  ///< multiple of 16
  uint32_t tile_count;
};

/// Sums of a plane with both parts of a state, by row.
struct PlaneSums {
  int32_t* hi;
  int32_t* lo;
};

/// sums.hi[r] = sum_c 16 * h[r][c] * hi[c] for the rows of the tiles, sums.lo[r] the same with lo.
using Int8High = void (*)(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums);

/// Blocks of kLowBlockCols columns of some rows of the low plane.
struct LowRows {
  const uint8_t* low;    ///< the first block of row 0, 64-byte aligned
  size_t row_bytes;      ///< from one row to the next
  uint32_t block_count;  ///< blocks of each row, one after the other
  uint32_t block_step;   ///< order: i * step mod count; coprime, and <= count + 1 where count > 1
  const uint32_t* rows;  ///< [row_count], no row twice
  uint32_t row_count;
};

/// sums.hi[r] += sum_c l[r][c] * hi[c] for the columns of the blocks, for each r of `rows`;
/// sums.lo[r] the same with lo.
using Int8Low = void (*)(const LowRows& rows, const SplitState& x, const PlaneSums& sums);

/// y = activation(gate) * up. y may be gate.
using Gate = void (*)(const float* gate, const float* up, uint32_t n_padded, float* y);

/// Most rows of queries that one call of `attention` takes.
inline constexpr uint32_t kAttentionRowsMax = 16;

/// The queries of `head_count` heads that share a kv head, of `token_count` tokens in a row.
struct AttentionQueries {
  const float*
      q;  ///< head h of token t: float[head_dim_padded] at t * stride + h * head_dim_padded
  size_t stride;
  uint32_t head_count;      ///< >= 1; head_count * token_count <= kAttentionRowsMax
  uint32_t token_count;     ///< >= 1
  uint32_t position_count;  ///< token t attends to positions [0, position_count + t)
  uint32_t head_dim_padded;
  float scale;
};

/// What `attention` writes: row t * head_count + h is that of head h of token t.
struct AttentionRows {
  float* scores;        ///< scratch, float[row_count][score_stride]: at the end the weights e[t]
  size_t score_stride;  ///< >= pad_lanes(position_count + token_count - 1), multiple of 16
  float* out;           ///< float[row_count][head_dim_padded]
};

/// Positions whose weights share a scale in attention over int8, and whose values are one block.
inline constexpr uint32_t kValueBlock = 128;
/// Positions whose values are one block in f32 and binary16.
inline constexpr uint32_t kFloatValueBlock = 32;

/// Keys or values of one kv head, as a kind of `attention` has them.
struct CacheRows {
  const void* rows;     ///< 64-byte aligned, of binary16 to 32 bytes
  const float* scales;  ///< int8: [pad_lanes(n)], 64-byte aligned
};

/// Attention of all rows over the keys and values of one kv head, each read once.
using Attention = void (*)(const AttentionQueries& queries, const CacheRows& k, const CacheRows& v,
                           const AttentionRows& rows);

struct KernelTable {
  const char* name;  ///< "ref", "avx2", "avx512vnni", "neon", "dotprod", "i8mm"
  TernaryMatmul ternary_matmul;
  Int8High int8_high;
  Int8Low int8_low;

  /// y[r] = dot16(row_r, x) for rows [row_begin, row_end). f32 rows (kind 4).
  void (*f32_matmul)(const float* weights, uint32_t cols_padded, uint32_t row_begin,
                     uint32_t row_end, const float* x, float* y);

  /// y = rms_norm(x) * w over `n_padded` elements, mean over `n`. y may be x.
  void (*rms_norm)(const float* x, const float* w, uint32_t n, uint32_t n_padded, float eps,
                   float* y);

  /// codes = quantize(x); *sum = sum of codes; returns s = 127 / max(amax, 1e-5).
  float (*quantize_int8)(const float* x, uint32_t n_padded, int8_t* codes, int32_t* sum);

  /// hi, lo = split quantisation of the head's input; returns max(amax, 1e-5) / 16256.
  float (*quantize_split)(const float* x, uint32_t n_padded, int8_t* hi, int8_t* lo,
                          int32_t* hi_sum, int32_t* lo_sum);

  Gate relu2_gate;
  Gate silu_gate;

  /// x = x + y.
  void (*add_in_place)(float* x, const float* y, uint32_t n_padded);

  /// Rotates one head. x: float[head_dim], no alignment; sin, cos: float[head_dim / 2];
  /// y: float[pad_lanes(head_dim)], 64-byte aligned, its padding is set to +0.
  void (*rope)(const float* x, const float* sin, const float* cos, uint32_t head_dim, float* y);

  /// sin[i], cos[i] = sincos(float(position) * inv_freq[i]).
  void (*rope_angles)(uint32_t position, const float* inv_freq, uint32_t n_padded, float* sin,
                      float* cos);

  /// By format::KvCacheKind: f32, binary16, int8.
  /// n = position_count + token_count - 1 positions stand in blocks; what stands for positions at
  /// and after n may be anything. Keys lie lane of dot16 by lane, values column by column:
  /// k: [ceil(n / 16)][16 lanes][head_dim_padded / 16][16 positions];
  /// v: [ceil(n / 32)][head_dim_padded / 16][32 positions][16]; int8:
  /// k: [ceil(n / 16)][head_dim_padded / 4][16 positions][4 elements];
  /// v: [ceil(n / 128)][head_dim_padded / 16][32][16 elements][4 positions].
  Attention attention[3];

  /// e[i] = exp(x[i] - max), the definition of docs/numerics.md; n_padded multiple of 16.
  /// Returns sum16(e). Elements at and after `n` get +0. e may be x.
  float (*exp_sum)(const float* x, float max, uint32_t n, uint32_t n_padded, float* e);

  /// half[i] = x[i] rounded to IEEE binary16. half: n_padded of them, aligned to 32 bytes.
  void (*store_f16)(const float* x, uint32_t n_padded, uint16_t* half);

  /// codes = the row in int8; returns its scale, max(amax, 1e-5) / 127. codes aligned to 16 bytes.
  float (*store_int8)(const float* x, uint32_t n_padded, int8_t* codes);
};

/// An instruction set that there are kernels for.
struct KernelLevel {
  const char* name;
  bool Processor::* available;
  void (*set)(KernelTable& table);  ///< leaves alone what is that of the level below

  /// All its operations. Only for what kernel_levels() returns.
  KernelTable table() const;
};
inline constexpr uint32_t kKernelLevelsMax = 4;

/// Those of this architecture, weakest first, "ref" always first.
std::span<const KernelLevel> kernel_levels();

}  // namespace bitnet::kernels
