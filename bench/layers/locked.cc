// SPDX-License-Identifier: Apache-2.0
namespace bitnet::platform {
constexpr int kLayers = 1;
}
#include "../bench/layers/variant.h"
