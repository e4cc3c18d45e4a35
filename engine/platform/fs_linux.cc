// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "platform/fs.h"
#include "platform/os.h"

namespace bitnet::platform {
namespace {

Error fault(const char* subject, int reason = errno) {
  return Error{Status::kFileSystem, subject, 0, static_cast<uint64_t>(reason), 0};
}

/// Repeats a call for as long as a signal interrupts it.
template <typename Call>
auto again(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// Repeats a call that does a part, from the byte on that it is told, until all is done or it does
/// nothing; returns how much was done, or -1 with errno.
template <typename Call>
ssize_t go_on(size_t bytes, Call call) {
  size_t count = 0;
  for (ssize_t part = 1; part > 0 && count < bytes; count += static_cast<size_t>(part)) {
    part = again([&] { return call(count); });
    if (part < 0) return part;
  }
  return static_cast<ssize_t>(count);
}

Error done(int result, const char* subject) { return result < 0 ? fault(subject) : kNoError; }

constexpr int kOpenFlags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_RDONLY;

static_assert(kAnywhere == AT_FDCWD);

/// A folder, or only a regular file.
Result<int> open_beneath(int folder, const char* name, int flags) {
  struct open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_NOFOLLOW);
  how.mode = flags & O_CREAT ? 0600 : 0;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const auto call = [&]() -> long {
    return folder == kAnywhere ? open(name, flags, 0600)
                               : syscall(SYS_openat2, folder, name, &how, sizeof how);
  };
  Handle handle(static_cast<int>(again(call)));
  struct stat facts;
  if (handle < 0 || fstat(handle, &facts) < 0) return fault(name);
  if ((flags & O_DIRECTORY) != 0 || S_ISREG(facts.st_mode)) return handle.release();
  return fault(name, S_ISDIR(facts.st_mode) ? EISDIR : EINVAL);
}

}  // namespace

Result<int> open_folder(int folder, const char* name) {
  return open_beneath(folder, name, kOpenFlags | O_DIRECTORY);
}

Result<int> open_file(int folder, const char* name) {
  return open_beneath(folder, name, kOpenFlags);
}

Result<int> create_file(int folder, const char* name, bool fresh) {
  return open_beneath(folder, name, O_RDWR | O_CREAT | O_CLOEXEC | (fresh ? O_EXCL : 0));
}

void close_file(int descriptor) {
  if (descriptor >= 0) close(descriptor);
}

Result<FileFacts> file_facts(int descriptor) {
  struct stat facts;
  if (fstat(descriptor, &facts) < 0) return fault("fstat");
  return FileFacts{static_cast<uint64_t>(facts.st_size), facts.st_nlink};
}

Result<size_t> read_at(int descriptor, uint64_t offset, std::span<uint8_t> buffer) {
  const ssize_t got = go_on(buffer.size(), [&](size_t at) {
    return pread(descriptor, &buffer[at], buffer.size() - at, static_cast<off_t>(offset + at));
  });
  return got < 0 ? Result<size_t>(fault("pread")) : static_cast<size_t>(got);
}

Result<size_t> read_all(int descriptor, std::span<uint8_t> buffer) {
  const ssize_t got = go_on(
      buffer.size(), [&](size_t at) { return read(descriptor, &buffer[at], buffer.size() - at); });
  if (got < 0) return Error{Status::kReadFailed, "", 0, static_cast<uint64_t>(errno)};
  return static_cast<size_t>(got);
}

Error write_all(int descriptor, std::span<const uint8_t> bytes) {
  const ssize_t put = go_on(
      bytes.size(), [&](size_t at) { return write(descriptor, &bytes[at], bytes.size() - at); });
  if (put == static_cast<ssize_t>(bytes.size())) return kNoError;
  return Error{Status::kWriteFailed, "", 0, static_cast<uint64_t>(put < 0 ? errno : EIO)};
}

Error write_at(int descriptor, uint64_t offset, std::span<const uint8_t> bytes) {
  const ssize_t put = go_on(bytes.size(), [&](size_t at) {
    return pwrite(descriptor, &bytes[at], bytes.size() - at, static_cast<off_t>(offset + at));
  });
  if (put == static_cast<ssize_t>(bytes.size())) return kNoError;
  return fault("pwrite", put < 0 ? errno : EIO);
}

Error set_length(int descriptor, uint64_t bytes) {
  return done(again([&] { return ftruncate(descriptor, static_cast<off_t>(bytes)); }), "ftruncate");
}

Error reserve_space(int descriptor, uint64_t bytes) {
  if (bytes == 0) return kNoError;
  const int result = again([&] { return fallocate(descriptor, 0, 0, static_cast<off_t>(bytes)); });
  return result < 0 && errno == EOPNOTSUPP ? kNoError : done(result, "fallocate");
}

Error set_mode(int descriptor, uint32_t mode) {
  return done(again([&] { return fchmod(descriptor, mode); }), "fchmod");
}

Error sync_file(int descriptor) {
  return done(again([&] { return fsync(descriptor); }), "fsync");
}

Error lock_file(int descriptor) {
  struct flock whole = {};
  whole.l_type = F_WRLCK;
  if (again([&] { return fcntl(descriptor, F_OFD_SETLK, &whole); }) == 0) return kNoError;
  return errno == EAGAIN || errno == EACCES ? Error{Status::kBusy} : fault("fcntl");
}

Error check_writable(int folder) {
  return done(again([&] { return faccessat(folder, ".", W_OK | X_OK, AT_EACCESS); }), "faccessat");
}

Error make_folder(int folder, const char* name, uint32_t mode) {
  const mode_t before = umask(0);
  const Error error = done(again([&] { return mkdirat(folder, name, mode); }), name);
  umask(before);
  return error;
}

Error rename_file(int folder, const char* from, const char* to) {
  return done(again([&] { return renameat(folder, from, folder, to); }), to);
}

Error remove_file(int folder, const char* name, bool is_folder) {
  return done(again([&] { return unlinkat(folder, name, is_folder ? AT_REMOVEDIR : 0); }), name);
}

Error make_link(int folder, const char* name, const char* target) {
  return done(again([&] { return symlinkat(target, folder, name); }), name);
}

Error read_link(int folder, const char* name, std::span<char> target) {
  const ssize_t got = again([&] { return readlinkat(folder, name, target.data(), target.size()); });
  if (got < 0) return fault(name);
  if (static_cast<size_t>(got) == target.size()) return fault(name, ENAMETOOLONG);
  target[static_cast<size_t>(got)] = 0;
  return kNoError;
}

Error list_names(int folder, NameList* list) {
  alignas(8) uint8_t buffer[8192];
  list->count = 0;
  list->left_out = 0;
  if (lseek(folder, 0, SEEK_SET) < 0) return fault("lseek");
  for (;;) {
    const long got = again([&] { return syscall(SYS_getdents64, folder, buffer, sizeof buffer); });
    if (got < 0) return fault("getdents64");
    if (got == 0) return kNoError;
    // struct linux_dirent64: inode, offset (8 bytes each), record length (2), type (1), name.
    uint16_t record;
    for (long at = 0; at < got; at += record) {
      std::memcpy(&record, buffer + at + 16, sizeof record);
      const char* name = reinterpret_cast<const char*>(buffer + at + 19);
      const size_t length = std::strlen(name);
      if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) continue;
      if (length > kNameBytesMax || list->count == kNameCountMax) {
        list->left_out += 1;
      } else {
        std::memcpy(list->names[list->count++], name, length + 1);
      }
    }
  }
}

Result<HostTime> host_time() {
  HostTime time;
  const Handle file(BITNET_VALUE(open_file(kAnywhere, "/proc/sys/kernel/random/boot_id")));
  (void)BITNET_VALUE(
      read_at(file, 0, {reinterpret_cast<uint8_t*>(time.boot_id), sizeof time.boot_id - 1}));
  time.boot_s = boot_ns() / 1000000000;
  time.wall_s = unix_ns() / 1000000000;
  return time;
}

namespace {

Error log_error() { return Error{Status::kLogFile, "log", 0, static_cast<uint64_t>(errno)}; }

}  // namespace

Result<uint8_t*> open_log_file(const char* path, size_t bytes) {
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  const Handle file(open(path, kFlags, 0640));
  if (file < 0) return log_error();
  // The lock belongs to the open file, and the mapping keeps that open: so it outlives the
  // descriptor and ends with the process.
  const Error lock = lock_file(file);
  if (failed(lock))
    return lock.status == Status::kBusy ? Error{Status::kLogBusy, "log"} : log_error();
  struct stat facts;
  if (fstat(file, &facts) != 0) return log_error();
  const bool ours = S_ISREG(facts.st_mode) && facts.st_uid == geteuid() && facts.st_nlink == 1 &&
                    (facts.st_mode & 027) == 0;
  const uint64_t mode = facts.st_mode;  // told with the digits that `ls` and `chmod` know
  if (!ours) {
    const uint64_t digits = (mode >> 6 & 7) * 100 + (mode >> 3 & 7) * 10 + (mode & 7);
    return Error{Status::kLogForeign, "log", 0, digits};
  }
  const auto found = static_cast<uint64_t>(facts.st_size);
  if (found != 0 && found != bytes) return Error{Status::kLogFormat, "size", found};
  // Memory for every page now: later a full file system would be a fault at a store.
  const int full = posix_fallocate(file, 0, static_cast<off_t>(bytes));
  if (full != 0) (void)set_length(file, found);
  if (full != 0) return Error{Status::kLogFile, "log", 0, static_cast<uint64_t>(full)};
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return log_error();
  return static_cast<uint8_t*>(memory);
}

bool log_has_writer(int descriptor) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  return fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace bitnet::platform
