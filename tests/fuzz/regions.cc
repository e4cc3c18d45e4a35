// /proc/PID/smaps: any text is a list of regions or is refused.
// SPDX-License-Identifier: Apache-2.0
#include "programs/regions.h"

#include <cstdlib>
#include <cstring>

using namespace bitnet;

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static programs::Region region;
  std::span<const uint8_t> rest(data, bytes);
  bool ok = true;
  while (programs::next_region(rest, &region, &ok)) {
    if (region.begin >= region.end) std::abort();
    if (std::strlen(region.name) >= sizeof region.name) std::abort();
  }
  return 0;
}
