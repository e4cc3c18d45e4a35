// Manifest, update statement and rollback order: what is accepted is the one form of its values.
// SPDX-License-Identifier: Apache-2.0
#include "release/manifest.h"

#include "walk.h"

using namespace bitnet;

namespace {

void walk_manifest(Walk& walk, const release::Manifest& manifest) {
  walk.text("# bitnet-manifest v1\n# product ").bytes(manifest.product);
  walk.text("\n# version ").bytes(manifest.version);
  walk.text("\n# counter ").number(manifest.counter);
  walk.text("\n# minimum-counter ").number(manifest.minimum_counter);
  walk.text("\n# architecture ").bytes(manifest.architecture);
  walk.text("\n# selftest-seed ").number(manifest.selftest_seed).text("\n");
  must(manifest.file_count >= 1 && manifest.file_count <= release::kReleaseFilesMax);
  must(manifest.minimum_counter <= manifest.counter);
  for (size_t i = 0; i < manifest.file_count; ++i) {
    const release::ManifestFile& file = manifest.files[i];
    walk.text(file.executable ? "# file 0755 " : "# file 0644 ").number(file.bytes);
    walk.text(" ").bytes(file.name).text("\n");
    must(!file.name.empty() && file.name.size() <= release::kNameBytesMax);
    must(std::memchr(file.name.data(), '/', file.name.size()) == nullptr);
    must(i == 0 || compare(manifest.files[i - 1].name, file.name) < 0);
  }
  for (size_t i = 0; i < manifest.file_count; ++i) {
    walk.hex(manifest.files[i].sha384).text("  ").bytes(manifest.files[i].name).text("\n");
  }
  walk.end();
}

}  // namespace

extern "C" {
uint64_t fuzz_accepted = 0;
}

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static release::UpdateStatement update;
  auto* buffer = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  std::memcpy(buffer, data, bytes);
  const Text input(buffer, bytes);
  Walk walk(input);
  release::RollbackOrder order;
  if (!failed(release::parse_manifest(input, &update.manifest))) {
    walk_manifest(walk, update.manifest);
  } else if (!failed(release::parse_update(input, &update))) {
    walk.text("bitnet-update v1\nbundle ");
    if (update.bundle_bytes > 0) {
      walk.hex(update.bundle_sha384).text(" ").number(update.bundle_bytes).text("\n");
    } else {
      walk.text("- 0\n");
    }
    walk_manifest(walk, update.manifest);
  } else if (!failed(release::parse_rollback_order(input, &order))) {
    walk.text("bitnet-rollback-order v1\nproduct ").bytes(order.product);
    walk.text("\nfrom ").number(order.from).text("\nto ").number(order.to);
    walk.text("\ndigest ").hex(order.manifest_sha384);
    walk.text("\nreason ").bytes(order.reason).text("\n").end();
    must(order.to < order.from);
  }
  fuzz_accepted += walk.done();
  std::free(buffer);
  return 0;
}
