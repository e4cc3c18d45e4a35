// SPDX-License-Identifier: Apache-2.0
namespace bitnet::platform {
constexpr int kLayers = 2;
}
#include "../bench/layers/variant.h"
