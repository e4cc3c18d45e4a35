// SPDX-License-Identifier: Apache-2.0
#include "platform/inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

namespace bitnet::platform {

Result<int> open_for_reading(const char* path) {
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (descriptor < 0) return Error{Status::kReadFailed, path, 0, static_cast<uint64_t>(errno)};
  return descriptor;
}

Error read_link(const char* path, std::span<char> target) {
  const ssize_t count = readlink(path, target.data(), target.size() - 1);
  if (count < 0) return Error{Status::kProcessHidden, "exe", 0, static_cast<uint64_t>(errno)};
  target[static_cast<size_t>(count)] = 0;
  return kNoError;
}

}  // namespace bitnet::platform
