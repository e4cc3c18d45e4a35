// SPDX-License-Identifier: Apache-2.0
#include "platform/inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace bitnet::platform {

Result<int> open_for_reading(const char* path) {
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (descriptor < 0) return Error{Status::kReadFailed, path, 0, static_cast<uint64_t>(errno)};
  return descriptor;
}

Result<size_t> inspect_at(int descriptor, uint64_t offset, std::span<uint8_t> buffer) {
  size_t count = 0;
  while (count < buffer.size()) {
    const ssize_t got = pread(descriptor, buffer.data() + count, buffer.size() - count,
                              static_cast<off_t>(offset + count));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error{Status::kReadFailed, "", 0, static_cast<uint64_t>(errno)};
    if (got == 0) break;
    count += static_cast<size_t>(got);
  }
  return count;
}

Error read_link(const char* path, std::span<char> target) {
  const ssize_t count = readlink(path, target.data(), target.size() - 1);
  if (count < 0) return Error{Status::kProcessHidden, "exe", 0, static_cast<uint64_t>(errno)};
  target[static_cast<size_t>(count)] = 0;
  return kNoError;
}

Result<InspectedFile> inspect_file(int descriptor) {
  struct stat facts;
  if (fstat(descriptor, &facts) != 0) {
    return Error{Status::kReadFailed, "", 0, static_cast<uint64_t>(errno)};
  }
  return InspectedFile{static_cast<uint64_t>(facts.st_size), facts.st_nlink};
}

}  // namespace bitnet::platform
