// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "platform/exec.h"
#include "platform/fs.h"
#include "platform/os.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

namespace bitnet::platform {
namespace {

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

Error system_error(const char* subject) {
  return Error{Status::kSystem, subject, 0, static_cast<uint64_t>(errno), 0};
}

/// Anonymous memory that may be run. Kernels before 6.3 do not know MFD_EXEC and need no flag.
int create_memory_file() {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const int descriptor = memfd_create("bitnet", kFlags | MFD_EXEC);
  return descriptor < 0 && errno == EINVAL ? memfd_create("bitnet", kFlags) : descriptor;
}

Error fill_and_seal(int file, uint64_t bytes, int copy, std::span<uint8_t> buffer) {
  for (uint64_t offset = 0; offset < bytes;) {
    const uint64_t rest = bytes - offset;
    const Result<size_t> count =
        read_at(file, offset, rest < buffer.size() ? buffer.first(rest) : buffer);
    if (!count.ok()) return count.error();
    if (count.value() == 0) break;
    BITNET_TRY(write_all(copy, buffer.first(count.value())));
    offset += count.value();
  }
  return fcntl(copy, F_ADD_SEALS, kSeals) == 0 ? kNoError : system_error("F_ADD_SEALS");
}

}  // namespace

Result<int> copy_sealed(int file, uint64_t bytes, std::span<uint8_t> buffer) {
  const int copy = create_memory_file();
  if (copy < 0) return system_error("memfd_create");
  const Error error = fill_and_seal(file, bytes, copy, buffer);
  if (!failed(error)) return copy;
  close_file(copy);
  return error;
}

Error execute(int sealed, char* const* arguments) {
  syscall(SYS_execveat, sealed, "", arguments, environ, AT_EMPTY_PATH);
  return system_error("execveat");
}

}  // namespace bitnet::platform
