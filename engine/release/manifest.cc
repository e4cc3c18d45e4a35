// SPDX-License-Identifier: Apache-2.0
#include "release/manifest.h"

namespace bitnet::release {
namespace {

/// X.Y.Z of three numbers.
Text read_version(Scanner& scanner) {
  const Text before = scanner.rest();
  scanner.number();
  scanner.expect(".");
  scanner.number();
  scanner.expect(".");
  scanner.number();
  return before.first(before.size() - scanner.rest().size());
}

/// `0644 BYTES NAME` of a `# file` line whose begin has been read. `total` is of all sizes so far.
void read_file_line(Scanner& scanner, uint64_t* total, Manifest* out) {
  if (!scanner.has_room(out->file_count, kReleaseFilesMax)) return;
  ManifestFile& file = out->files[out->file_count];
  file.executable = scanner.accept("0755 ");
  if (!file.executable && !scanner.accept("0644 ")) return scanner.fail(Status::kReleaseMode);
  file.bytes = scanner.number();
  *total += file.bytes;  // both below 2^63
  if (*total > kNumberMax) return scanner.fail(Status::kReleaseRange, *total, kNumberMax);
  scanner.expect(" ");
  file.name = scanner.name();
  if (out->file_count > 0 && compare(file.name, out->files[out->file_count - 1].name) <= 0) {
    scanner.fail(Status::kReleaseOrder);
  }
  // The manifest cannot list itself, nor what signs it.
  if (same(file.name, "MANIFEST") || same(file.name, "update.sig")) {
    scanner.fail(Status::kReleaseName);
  }
  scanner.end_line();
  ++out->file_count;
}

void read_digest_lines(Scanner& scanner, Manifest* out) {
  for (size_t i = 0; i < out->file_count && scanner.ok(); ++i) {
    out->files[i].sha384 = scanner.digest();
    scanner.expect("  ");
    const Text name = scanner.name();
    if (scanner.ok() && !same(name, out->files[i].name)) scanner.fail(Status::kReleaseOrder);
    scanner.end_line();
  }
}

}  // namespace

Error parse_manifest(Text text, Manifest* out) {
  *out = Manifest{};
  out->text = text;
  out->sha384 = digest_of(text);
  Scanner scanner(text, "MANIFEST");
  scanner.expect("# bitnet-manifest v1\n# product ");
  out->product = scanner.name();
  scanner.expect("\n# version ");
  out->version = read_version(scanner);
  scanner.expect("\n# counter ");
  out->counter = scanner.number();
  scanner.expect("\n# minimum-counter ");
  out->minimum_counter = scanner.number();
  if (out->minimum_counter > out->counter) {
    scanner.fail(Status::kReleaseRange, out->minimum_counter, out->counter);
  }
  scanner.expect("\n# architecture ");
  out->architecture = scanner.name();
  scanner.expect("\n# selftest-seed ");
  out->selftest_seed = scanner.number();
  scanner.end_line();
  uint64_t total = 0;
  while (scanner.accept("# file ")) read_file_line(scanner, &total, out);
  if (scanner.ok() && out->file_count == 0) scanner.fail(Status::kReleaseSyntax);
  read_digest_lines(scanner, out);
  scanner.end();
  return scanner.error();
}

const ManifestFile* find_file(const Manifest& manifest, const char* name) {
  for (size_t i = 0; i < manifest.file_count; ++i) {
    if (same(manifest.files[i].name, name)) return &manifest.files[i];
  }
  return nullptr;
}

Error parse_update(Text statement, UpdateStatement* out) {
  *out = UpdateStatement{};
  Scanner scanner(statement, "update statement");
  if (!scanner.accept("bitnet-update v1\n")) return Error{Status::kStatementKind, "bitnet-update"};
  scanner.expect("bundle ");
  if (!scanner.accept("- 0\n")) {
    out->bundle_sha384 = scanner.digest();
    scanner.expect(" ");
    out->bundle_bytes = scanner.number();
    if (out->bundle_bytes == 0) scanner.fail(Status::kReleaseRange, 0, 1);
    scanner.end_line();
  }
  return scanner.ok() ? parse_manifest(scanner.rest(), &out->manifest) : scanner.error();
}

Error parse_rollback_order(Text statement, RollbackOrder* out) {
  *out = RollbackOrder{};
  Scanner scanner(statement, "rollback order");
  if (!scanner.accept("bitnet-rollback-order v1\n")) {
    return Error{Status::kStatementKind, "bitnet-rollback-order"};
  }
  scanner.expect("product ");
  out->product = scanner.name();
  scanner.expect("\nfrom ");
  out->from = scanner.number();
  scanner.expect("\nto ");
  out->to = scanner.number();
  if (out->to >= out->from) scanner.fail(Status::kReleaseRange, out->to, out->from);
  scanner.expect("\ndigest ");
  out->manifest_sha384 = scanner.digest();
  scanner.expect("\nreason ");
  out->reason = scanner.name();
  scanner.end_line();
  scanner.end();
  return scanner.error();
}

}  // namespace bitnet::release
