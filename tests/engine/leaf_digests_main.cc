// Digests of leaves by one implementation: requests on standard input, digests on standard output.
// SPDX-License-Identifier: Apache-2.0
//
//   leaf_digests NAME            NAME as in leaf_digests.cc
// Request  u32 leaf_bytes, u32 count, u64 index, u32 repeat, then count * leaf_bytes bytes
// Answer   count digests of 48 bytes; `repeat` times the same work, for counting instructions
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "crypto/leaf_digests.h"

using namespace bitnet;

int main(int argument_count, char** arguments) {
  const crypto::LeafHash* hash = nullptr;
  if (argument_count != 2) return 2;
  for (const crypto::LeafHash& each : crypto::leaf_hashes()) {
    if (std::strcmp(each.name, arguments[1]) == 0) hash = &each;
  }
  if (hash == nullptr) return 2;
  struct {
    uint32_t leaf_bytes, count;
    uint64_t index;
    uint32_t repeat, unused;
  } request;
  while (std::fread(&request, sizeof request, 1, stdin) == 1) {
    const size_t bytes = size_t{request.leaf_bytes} * request.count;
    auto* data = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
    if (data == nullptr || std::fread(data, 1, bytes, stdin) != bytes) return 1;
    uint8_t digests[crypto::kLeafLanesMax * kDigestBytes];
    for (uint32_t i = 0; i < request.repeat; ++i) {
      hash->digests(data, request.leaf_bytes, request.index, request.count, digests);
    }
    if (std::fwrite(digests, kDigestBytes, request.count, stdout) != request.count) return 1;
    std::free(data);
  }
  return 0;
}
