// Manifest, update statement and rollback order: what is accepted is the one form of its values.
// SPDX-License-Identifier: Apache-2.0
#include "release/manifest.h"

#include <cstdlib>
#include <cstring>
#include <string>

using namespace bitnet;

namespace {

void must(bool condition) {
  if (!condition) std::abort();
}

std::string text(release::Text part) { return {part.begin(), part.end()}; }

std::string hex(const release::Digest& digest) {
  std::string out;
  for (const uint8_t byte : digest) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

/// Writes the values again, by another hand than the parser's.
std::string emit(const release::Manifest& manifest) {
  std::string out = "# bitnet-manifest v1\n# product " + text(manifest.product) + "\n# version " +
                    text(manifest.version) + "\n# counter " + std::to_string(manifest.counter) +
                    "\n# minimum-counter " + std::to_string(manifest.minimum_counter) +
                    "\n# architecture " + text(manifest.architecture) + "\n# selftest-seed " +
                    std::to_string(manifest.selftest_seed) + "\n";
  std::string digests;
  for (size_t i = 0; i < manifest.file_count; ++i) {
    const release::ManifestFile& file = manifest.files[i];
    out += std::string("# file ") + (file.executable ? "0755 " : "0644 ") +
           std::to_string(file.bytes) + " " + text(file.name) + "\n";
    digests += hex(file.sha384) + "  " + text(file.name) + "\n";
    must(!file.name.empty() && file.name.size() <= release::kNameBytesMax);
    must(std::memchr(file.name.data(), '/', file.name.size()) == nullptr);
    must(i == 0 || release::compare(manifest.files[i - 1].name, file.name) < 0);
  }
  return out + digests;
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static release::UpdateStatement update;
  auto* buffer = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  std::memcpy(buffer, data, bytes);
  const release::Text input(buffer, bytes);
  const std::string whole = text(input);
  if (!failed(release::parse_manifest(input, &update.manifest))) {
    must(emit(update.manifest) == whole);
    must(update.manifest.file_count >= 1 &&
         update.manifest.minimum_counter <= update.manifest.counter);
  }
  if (!failed(release::parse_update(input, &update))) {
    const std::string bundle =
        update.has_bundle ? hex(update.bundle_sha384) + " " + std::to_string(update.bundle_bytes)
                          : "- 0";
    must("bitnet-update v1\nbundle " + bundle + "\n" + emit(update.manifest) == whole);
  }
  release::RollbackOrder order;
  if (!failed(release::parse_rollback_order(input, &order))) {
    must("bitnet-rollback-order v1\nproduct " + text(order.product) + "\nfrom " +
             std::to_string(order.from) + "\nto " + std::to_string(order.to) + "\ndigest " +
             hex(order.manifest_sha384) + "\nreason " + text(order.reason) + "\n" ==
         whole);
    must(order.to < order.from);
  }
  std::free(buffer);
  return 0;
}
