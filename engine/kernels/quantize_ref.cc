// The definition of quantize_int8 and quantize_split, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/building_blocks_ref.h"
#include "kernels/quantize.h"

namespace bitnet::kernels {
namespace {

float amax_at_least_min(const float* x, uint32_t n_padded) {
  const float largest = amax(x, n_padded);
  return largest < kAmaxMin ? kAmaxMin : largest;
}

}  // namespace

float quantize_int8_ref(const float* x, uint32_t n_padded, int8_t* codes, int32_t* sum) {
  const float s = kInt8CodeMax / amax_at_least_min(x, n_padded);
  *sum = 0;
  for (uint32_t i = 0; i < n_padded; ++i) {
    codes[i] = static_cast<int8_t>(rne(x[i] * s));
    *sum += codes[i];
  }
  return s;
}

float quantize_split_ref(const float* x, uint32_t n_padded, int8_t* hi, int8_t* lo, int32_t* hi_sum,
                         int32_t* lo_sum) {
  const float largest = amax_at_least_min(x, n_padded);
  const float s = kSplitCodeMax / largest;
  *hi_sum = 0;
  *lo_sum = 0;
  for (uint32_t i = 0; i < n_padded; ++i) {
    const int32_t q = rne(x[i] * s);
    const int32_t high = (q + 64) >> 7;
    hi[i] = static_cast<int8_t>(high);
    lo[i] = static_cast<int8_t>(q - 128 * high);
    *hi_sum += hi[i];
    *lo_sum += lo[i];
  }
  return largest / kSplitCodeMax;
}

}  // namespace bitnet::kernels
