// Prints what the engine's payload code and digests find: black-box tests compare it with others.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/text.h"
#include "crypto/crypto.h"
#include "format/executable.h"

namespace {

void print_hex(const char* name, std::span<const uint8_t> data) {
  printf("%s ", name);
  for (const uint8_t byte : data) printf("%02x", byte);
  printf("\n");
}

// Digests of standard input, all at once and in steps of `step` bytes.
int print_digests(size_t step) {
  static uint8_t data[1u << 20];
  const size_t bytes = fread(data, 1, sizeof(data), stdin);
  const bitnet::Text whole(data, bytes);
  print_hex("sha3_384", bitnet::Sha3().add(whole).digest());
  print_hex("sha384", bitnet::Sha384().add(whole).digest());
  bitnet::Sha3 sha3;
  bitnet::Sha384 sha2;
  for (size_t at = 0; at < bytes; at += step) {
    const bitnet::Text part = whole.subspan(at, bytes - at < step ? bytes - at : step);
    sha3.add(part);
    sha2.add(part);
  }
  print_hex("sha3_384_steps", sha3.digest());
  print_hex("sha384_steps", sha2.digest());
  return 0;
}

bool protect_relro(std::span<const uint8_t> relro) {
  const auto page = getauxval(AT_PAGESZ);
  const auto begin = reinterpret_cast<uintptr_t>(relro.data()) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(relro.data()) + relro.size()) / page * page;
  return relro.empty() || mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_READ) == 0;
}

/// Makes the memory of this process another than the executable asks for; returns where.
const void* change(const char* how, std::span<const uint8_t> payload) {
  const size_t page = getauxval(AT_PAGESZ);
  void* const first = const_cast<uint8_t*>(payload.data());
  if (strcmp(how, "code") == 0)
    return mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (strcmp(how, "copy") == 0)
    return mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE,
                open("/proc/self/exe", O_RDONLY | O_CLOEXEC), 0);
  if (strcmp(how, "writable") == 0 && mprotect(first, page, PROT_READ | PROT_WRITE) == 0)
    return first;
  if (strcmp(how, "gone") == 0 && munmap(first, payload.size()) == 0) return first;
  return nullptr;
}

// Size, digest and both ends of the payload. `ends` leaves out the digest, for payloads of
// gigabytes. With `how` the memory is changed at last; `wait` waits for a byte.
int print_payload(bool ends_only, bool wait, const char* how) {
  const auto* headers = reinterpret_cast<const uint8_t*>(getauxval(AT_PHDR));
  const auto image = bitnet::format::read_image({headers, getauxval(AT_PHNUM) * 56});
  if (!protect_relro(image.relro)) return 2;
  const auto found = bitnet::format::find_payload(image);
  const auto root = bitnet::format::sealed_root();
  print_hex("root", root);
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
  print_hex("last", payload.last(8));
  if (!ends_only) print_hex("sha384", bitnet::Sha384().add(payload).digest());
  if (how != nullptr) printf("changed %p\n", change(how, payload));
  fflush(stdout);
  char byte;
  if (wait && read(0, &byte, 1) < 0) return 1;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "payload";
  if (strcmp(mode, "digest") == 0) return print_digests(strtoul(argv[2], nullptr, 10));
  const char* how = argc > 2 ? argv[2] : nullptr;
  return print_payload(strcmp(mode, "ends") == 0, strcmp(mode, "wait") == 0, how);
}
