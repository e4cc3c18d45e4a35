// Prints what the engine's payload code and digests find: black-box tests compare it with others.
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crypto/crypto.h"
#include "format/executable.h"

namespace {

void print_hex(const char* name, const uint8_t* data, size_t bytes) {
  printf("%s ", name);
  for (size_t i = 0; i < bytes; ++i) printf("%02x", data[i]);
  printf("\n");
}

// Digests of standard input, all at once and in steps of `step` bytes.
int print_digests(size_t step) {
  static uint8_t data[1u << 20];
  const size_t bytes = fread(data, 1, sizeof(data), stdin);
  uint8_t digest[kDigest384Bytes];
  bitnet_sha3_384(data, bytes, digest);
  print_hex("sha3_384", digest, sizeof(digest));
  bitnet_sha384(data, bytes, digest);
  print_hex("sha384", digest, sizeof(digest));
  BitnetDigestState sha3;
  BitnetDigestState sha2;
  bitnet_sha3_384_init(&sha3);
  bitnet_sha384_init(&sha2);
  for (size_t at = 0; at < bytes; at += step) {
    const size_t count = bytes - at < step ? bytes - at : step;
    bitnet_sha3_384_update(&sha3, data + at, count);
    bitnet_sha384_update(&sha2, data + at, count);
  }
  bitnet_sha3_384_final(&sha3, digest);
  print_hex("sha3_384_steps", digest, sizeof(digest));
  bitnet_sha384_final(&sha2, digest);
  print_hex("sha384_steps", digest, sizeof(digest));
  return 0;
}

// Makes read-only what only the relocation at start had to write.
bool protect_relro(std::span<const uint8_t> relro) {
  const auto page = getauxval(AT_PAGESZ);
  const auto begin = reinterpret_cast<uintptr_t>(relro.data()) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(relro.data()) + relro.size()) / page * page;
  return relro.empty() || mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_READ) == 0;
}

// Size, digest and both ends of the payload. `ends` leaves out the digest, for payloads of
// gigabytes.
int print_payload(bool ends_only, bool wait) {
  const auto* headers = reinterpret_cast<const uint8_t*>(getauxval(AT_PHDR));
  const auto image = bitnet::format::read_image({headers, getauxval(AT_PHNUM) * 56});
  if (!protect_relro(image.relro)) return 2;
  const auto found = bitnet::format::find_payload(image);
  const auto root = bitnet::format::sealed_root();
  print_hex("root", root.data(), root.size());
  uint8_t any = 0;
  for (const uint8_t byte : root) any |= byte;
  printf("sealed %d\n", any != 0);
  if (!found.ok()) {
    printf("status %u count %llu\n", static_cast<unsigned>(found.error().status),
           static_cast<unsigned long long>(found.error().value));
    return 1;
  }
  const auto payload = found.value();
  printf("bytes %zu\naddress %p\n", payload.size(), static_cast<const void*>(payload.data()));
  print_hex("last", payload.data() + payload.size() - 8, 8);
  if (!ends_only) {
    uint8_t digest[kDigest384Bytes];
    bitnet_sha384(payload.data(), payload.size(), digest);
    print_hex("sha384", digest, sizeof(digest));
  }
  fflush(stdout);
  char byte;
  if (wait && read(0, &byte, 1) < 0) return 1;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "payload";
  if (strcmp(mode, "digest") == 0) return print_digests(strtoul(argv[2], nullptr, 10));
  return print_payload(strcmp(mode, "ends") == 0, strcmp(mode, "wait") == 0);
}
