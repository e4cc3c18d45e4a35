// bitnet-verify: says whether a model, a bundle or an installed release is the signed one, and by
// whom it was signed; runs an installed release only if it is.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "platform/os.h"
#include "programs/arguments.h"
#include "programs/report.h"
#include "programs/signers.h"
#include "release/content.h"
#include "release/trust.h"

namespace {

using namespace bitnet;
using programs::Line;
using programs::print;

constexpr char kExecutable[] = "bitnet-infer";

constexpr char kHelp[] =
    R"(usage: bitnet-verify (--root FILE | --pubkey FILE) [--sig FILE] [--prefix DIR] [--json]
                     (--model FILE | --bundle FILE | --release DIR | --exec [--] ARGUMENTS)

Exit code 0: the content is the signed one, and enough people have signed. 3: it is not.

  --root FILE       trust root: whose signatures count, and how many are needed
  --pubkey FILE     instead of a root: the one key that must have signed
  --sig FILE        signatures; without it `update.sig` beside the content
  --model FILE      the model.bin of the signed release
  --bundle FILE     a bundle as it was transferred
  --release DIR     an installed release: every file, and nothing but these
  --exec ARGUMENTS  verify /opt/bitnet, then run its bitnet-infer with ARGUMENTS, from a copy
                    in memory that nobody can change; without --root and --pubkey by
                    /etc/bitnet/trust.root
  --prefix DIR      stands before these two paths
  --json            tell the result as one line of JSON
  --selftest        known answers of all algorithms (also done before every verification)
  --version         print the version and what is claimed about the algorithms

example: bitnet-verify --root /etc/bitnet/trust.root --bundle bitnet-v2.1.0.tar.zst
exit codes: 0 trusted, 1 failed, 2 usage, 3 not trusted, 5 environment
)";

constexpr char kClaims[] =
    R"(SHA-384 (FIPS 180-4), SHA3-384 (FIPS 202), Ed25519 (FIPS 186-5), ML-DSA-87 (FIPS 204).
Uses FIPS-approved algorithms; no FIPS 140-3 validation is claimed. A static program does not
use the validated module of the system, whether or not that runs in FIPS mode.
)";

struct Arguments {
  const char* root = nullptr;
  const char* pubkey = nullptr;
  const char* sig = nullptr;
  const char* model = nullptr;
  const char* bundle = nullptr;
  const char* release = nullptr;
  const char* prefix = "";
  char** run = nullptr;  ///< `--exec` itself: its place becomes the name of the program that is run
  bool json = false;
  bool selftest = false;
};

/// Everything that lives as long as the program: about 5 MiB, nothing is allocated.
struct Program {
  Arguments arguments;
  uint8_t root_file[release::kContainerBytesMax];
  uint8_t paths[3][platform::kPathBytesMax];
  release::TrustRoot root;
  Digest root_digest;
  release::SignedRelease release;
  release::Folder folder;
};

Program program;

/// What stands behind `--exec`, and a `--` directly behind it, is the business of the program that
/// is run.
Error read_arguments(int count, char** values, Arguments* out) {
  programs::Option options[] = {
      {.name = "--root", .text = &out->root},         {.name = "--pubkey", .text = &out->pubkey},
      {.name = "--sig", .text = &out->sig},           {.name = "--model", .text = &out->model},
      {.name = "--bundle", .text = &out->bundle},     {.name = "--release", .text = &out->release},
      {.name = "--prefix", .text = &out->prefix},     {.name = "--json", .flag = &out->json},
      {.name = "--selftest", .flag = &out->selftest},
  };
  int own = 1;
  while (own < count && std::strcmp(values[own], "--exec") != 0) ++own;
  if (own < count) {
    const bool separated = own + 1 < count && std::strcmp(values[own + 1], "--") == 0;
    out->run = values + own + separated;
  }
  return programs::parse_arguments(own, values, options, kHelp, kClaims);
}

/// One source of trust and one content; none at all for a self-test.
Error check_arguments(const Arguments& given) {
  const int contents = (given.model != nullptr) + (given.bundle != nullptr) +
                       (given.release != nullptr) + (given.run != nullptr);
  const int trusts = (given.root != nullptr) + (given.pubkey != nullptr);
  if (given.selftest) {
    return contents + trusts == 0 ? kNoError : Error{Status::kOptionValue, "--selftest"};
  }
  if (contents == 0) return Error{Status::kOptionMissing, "--model, --bundle, --release or --exec"};
  if (contents > 1) return Error{Status::kOptionValue, "--model, --bundle, --release, --exec"};
  if (trusts > 1) return Error{Status::kOptionValue, "--root, --pubkey"};
  if (trusts == 0 && given.run == nullptr) return Error{Status::kOptionMissing, "--root"};
  return kNoError;
}

/// A path below the prefix.
Error below_prefix(const char* path, std::span<uint8_t> place, const char** joined) {
  Writer out(place);
  out.text(program.arguments.prefix).text(path);
  if (out.written().size() == place.size()) return Error{Status::kOptionValue, "--prefix"};
  *joined = out.ended();
  return kNoError;
}

/// Step 1: whose signatures count. A root must carry its own threshold.
Error load_trust(Program& self) {
  if (const char* path = self.arguments.pubkey; path != nullptr) {
    Text key;
    BITNET_TRY(release::read_whole(platform::kAnywhere, path, self.root_file, &key));
    return release::parse_public_key(key, path, &self.root);
  }
  const char* path = self.arguments.root;
  if (path == nullptr) BITNET_TRY(below_prefix("/etc/bitnet/trust.root", self.paths[0], &path));
  release::Container& container = self.release.container;
  BITNET_TRY(release::load_container(platform::kAnywhere, path, self.root_file, &container));
  self.root_digest = release::digest_of(container.statement);
  BITNET_TRY(release::parse_trust_root(container.statement, &self.root));
  return release::check_own_root(self.root, container, path);
}

/// Step 2: what is signed, and by enough people. `beside` is the content, or its folder.
Error load_statement(Program& self, const char* beside) {
  const char* path = self.arguments.sig;
  if (path == nullptr) BITNET_TRY(programs::find_signature(beside, self.paths[1], &path));
  BITNET_TRY(release::load_release(platform::kAnywhere, path, &self.release));
  return release::check_release(self.root, self.release.container, path, &self.release.approvals);
}

/// Step 3: the content is what was signed.
Error check_content(Program& self, const char* content) {
  const Arguments& given = self.arguments;
  const release::UpdateStatement& update = self.release.update;
  const std::span<uint8_t> buffer = self.folder.buffer;
  if (given.bundle != nullptr) {
    if (update.bundle_bytes == 0) return Error{Status::kNoBundle, content};
    return release::check_content(platform::kAnywhere, content, update.bundle_bytes,
                                  update.bundle_sha384, buffer);
  }
  if (given.model != nullptr) {
    const release::ManifestFile* model = release::find_file(update.manifest, "model.bin");
    if (model == nullptr) return Error{Status::kFileNotListed, "model.bin"};
    return release::check_content(platform::kAnywhere, content, model->bytes, model->sha384,
                                  buffer);
  }
  const platform::Handle folder(BITNET_VALUE(platform::open_folder(platform::kAnywhere, content)));
  const char* keep = given.run != nullptr ? kExecutable : nullptr;
  return release::check_folder(folder, update.manifest, keep, &self.folder);
}

/// After the self-test steps 1 to 3; sets `*content` to what was verified.
Error verify(Program& self, const char** content) {
  const Arguments& given = self.arguments;
  BITNET_TRY(release::run_selftest());
  if (given.selftest) {
    print(platform::kStdout, Line().text("SHA-384, SHA3-384, Ed25519, ML-DSA-87: as known\n"));
    return kNoError;
  }
  BITNET_TRY(load_trust(self));
  for (const char* named : {given.model, given.bundle, given.release}) {
    if (named != nullptr) *content = named;
  }
  if (given.run != nullptr) BITNET_TRY(below_prefix("/opt/bitnet/", self.paths[2], content));
  BITNET_TRY(load_statement(self, *content));
  return check_content(self, *content);
}

void tell_trusted(const Program& self, const char* content) {
  const release::Manifest& manifest = self.release.update.manifest;
  // While the release runs, standard output is its own.
  const int to = self.arguments.run == nullptr ? platform::kStdout : platform::kStderr;
  Line line;
  if (self.arguments.json) {
    line.text("{\"trusted\": true, \"product\": ").quoted(manifest.product);
    line.text(", \"version\": ").quoted(manifest.version);
    line.text(", \"counter\": ").number(manifest.counter);
    line.text(", \"architecture\": ").quoted(manifest.architecture);
    print(to, line.text(", \"root_version\": ").number(self.root.version).text(", "));
    programs::tell_signers(to, self.root, self.release.approvals, true);
    print(to, line.text("}\n"));
    return;
  }
  line.text("trusted: `").escaped(text_of(content)).text("`\n  ");
  line.escaped(manifest.product).text(" ").escaped(manifest.version).text(", counter ");
  line.number(manifest.counter).text(", ").escaped(manifest.architecture).text("\n");
  print(to, line);
  programs::tell_signers(to, self.root, self.release.approvals, false);
  if (self.arguments.pubkey != nullptr) return;
  line.text("  trust root version ").number(self.root.version).text(", SHA-384 ");
  print(to, line.hex(self.root_digest).text("\n"));
}

int tell_not_trusted(const Program& self, const Error& error) {
  if (self.arguments.json) {
    Line line;
    line.text("{\"trusted\": false, \"error\": \"").text(programs::status_text(error.status).name);
    print(platform::kStdout, line.text("\"}\n"));
  }
  programs::tell_signers(platform::kStderr, self.root, self.release.approvals, false);
  return programs::report(error);
}

}  // namespace

int main(int argument_count, char** argument_values) {
  Program& self = program;
  Error error = read_arguments(argument_count, argument_values, &self.arguments);
  if (!failed(error)) error = check_arguments(self.arguments);
  if (failed(error)) return programs::report(error);
  const char* content = "";
  error = verify(self, &content);
  if (failed(error)) return tell_not_trusted(self, error);
  if (!self.arguments.selftest) tell_trusted(self, content);
  if (self.arguments.run == nullptr) return programs::report(kNoError);
  self.arguments.run[0] = const_cast<char*>(kExecutable);
  return programs::report(platform::execute(self.folder.kept, self.arguments.run));
}
