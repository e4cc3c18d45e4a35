// rms_norm on sixteen lanes; included by float_<isa>.cc, which names it with KERNEL_NAME.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/lanes_simd.h"
#include "kernels/rms_norm.h"

namespace bitnet::kernels {

void KERNEL_NAME(rms_norm)(const float* x, const float* w, uint32_t n, uint32_t n_padded, float eps,
                           float* y) {
  float sum_of_squares[1];
  dot16_rows<1>(x, x, 0, n_padded, sum_of_squares);
  const float mean = sum_of_squares[0] / static_cast<float>(n);
  const float r = 1.0f / __builtin_sqrtf(mean + eps);
  for (uint32_t base = 0; base < n_padded; base += kLanes) {
    store_lanes(y + base, (load_lanes(x + base) * r) * load_lanes(w + base));
  }
}

}  // namespace bitnet::kernels
