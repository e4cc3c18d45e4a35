// SPDX-License-Identifier: Apache-2.0
#include "format/leaves.h"

#include <cstring>

#include "base/check.h"

namespace bitnet::format {

uint64_t Leaves::first_changed(uint64_t begin, uint64_t end) const {
  ENGINE_CHECK(end <= count());
  const uint8_t* expected = reinterpret_cast<const uint8_t*>(header_) + header_->leaves_offset;
  uint8_t found[crypto::kLeafLanesMax * kDigestBytes];
  for (uint64_t leaf = begin; leaf < end;) {
    // All leaves of one call are equally long; the last of the file, which may be shorter, is
    // alone.
    const uint64_t rest = header_->data_bytes - leaf * kLeafBytes;
    const uint64_t whole = rest / kLeafBytes;
    uint64_t lanes = end - leaf < hash_->lanes ? end - leaf : hash_->lanes;
    if (lanes > whole) lanes = whole > 0 ? whole : 1;
    hash_->digests(data() + leaf * kLeafBytes, rest < kLeafBytes ? rest : kLeafBytes, leaf,
                   static_cast<uint32_t>(lanes), found);
    for (uint64_t i = 0; i < lanes; ++i, ++leaf) {
      if (std::memcmp(found + i * kDigestBytes, expected + leaf * kDigestBytes, kDigestBytes) != 0)
        return leaf;
    }
  }
  return end;
}

Error Leaves::changed(uint64_t leaf) const {
  return Error{Status::kModelLeaf, "leaf", header_->data_offset + leaf * kLeafBytes, leaf, count()};
}

Leaves::Range Leaves::leaves_of(const void* first, size_t bytes) const {
  const auto offset = static_cast<uint64_t>(static_cast<const uint8_t*>(first) - data());
  ENGINE_CHECK(bytes > 0 && offset < header_->data_bytes && bytes <= header_->data_bytes - offset);
  return {offset / kLeafBytes, (offset + bytes + kLeafBytes - 1) / kLeafBytes};
}

}  // namespace bitnet::format
