// SPDX-License-Identifier: Apache-2.0
#include "platform/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "platform/fs.h"

namespace bitnet::platform {
namespace {

Error file_error() { return Error{Status::kLogFile, "log", 0, static_cast<uint64_t>(errno)}; }

/// Locks, checks or sizes the file, and maps it. The caller closes the descriptor.
Result<LogFile> take(int descriptor, bool made, size_t bytes) {
  // The lock belongs to the open file, and the mapping keeps that open: so it outlives the
  // descriptor and ends with the process.
  const Error lock = lock_file(descriptor);
  if (lock.status == Status::kBusy) return Error{Status::kLogBusy, "log"};
  if (failed(lock)) return file_error();
  struct stat facts;
  if (fstat(descriptor, &facts) != 0) return file_error();
  const bool ours = S_ISREG(facts.st_mode) && facts.st_uid == geteuid() && facts.st_nlink == 1 &&
                    (facts.st_mode & 027) == 0;
  const uint64_t mode = facts.st_mode;  // told with the digits that `ls` and `chmod` know
  if (!ours) {
    const uint64_t digits = (mode >> 6 & 7) * 100 + (mode >> 3 & 7) * 10 + (mode & 7);
    return Error{Status::kLogForeign, "log", 0, digits};
  }
  const auto found = static_cast<uint64_t>(facts.st_size);
  if (!made && found != bytes) return Error{Status::kLogFormat, "size", found};
  // Memory for every page now: later a full file system would be a fault at a store.
  const int full = made ? posix_fallocate(descriptor, 0, static_cast<off_t>(bytes)) : 0;
  if (full != 0) return Error{Status::kLogFile, "log", 0, static_cast<uint64_t>(full)};
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) return file_error();
  return LogFile{static_cast<uint8_t*>(memory), made};
}

}  // namespace

Result<LogFile> open_log_file(const char* path, size_t bytes) {
  constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  int descriptor = open(path, kFlags | O_CREAT | O_EXCL, 0640);
  const bool made = descriptor >= 0;
  if (!made && errno == EEXIST) descriptor = open(path, kFlags);
  if (descriptor < 0) return file_error();
  const Result<LogFile> file = take(descriptor, made, bytes);
  close(descriptor);
  if (!file.ok() && made) unlink(path);
  return file;
}

bool log_has_writer(int descriptor) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  return fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace bitnet::platform
