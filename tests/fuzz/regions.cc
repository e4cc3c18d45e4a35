// /proc/PID/smaps: any text is a list of regions or is refused.
// SPDX-License-Identifier: Apache-2.0
#include "programs/regions.h"

#include <cstdlib>
#include <cstring>

using namespace bitnet;

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  programs::Region region;
  Text rest(data, bytes);
  bool ok = true;
  while (programs::next_region(rest, &region, &ok)) {
    if (region.begin >= region.end) std::abort();
    for (const Text part : {region.rights, region.name}) {
      if (part.data() < data || part.data() + part.size() > data + bytes) std::abort();
    }
  }
  return 0;
}
