// Files beneath folders that are held open: what an update writes, and in which order it is safe.
// SPDX-License-Identifier: Apache-2.0
//
// Every name is one component, looked up beneath a folder's descriptor without following links.
// Calls on files go on after EINTR. Tests link another implementation of this header: one that
// fails the Nth call, or that knows what a power cut leaves (tests/powerloss/).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace bitnet::platform {

inline constexpr int kNone = -1;        ///< no descriptor
inline constexpr int kAnywhere = -100;  ///< AT_FDCWD
inline constexpr uint64_t kErrnoMissing = 2;

/// Whether a call failed because this user, or anybody, may not write there.
inline bool is_denied(const Error& error) {
  return error.value == 1 || error.value == 13 || error.value == 30;
}

/// Whether opening failed because the name is missing, a link, or not of the kind that was wanted.
inline bool is_absent(const Error& error) {
  return error.value == kErrnoMissing || error.value == 21 || error.value == 22 ||
         error.value == 40;
}

inline constexpr size_t kPathBytesMax = 4096;  ///< no longer path can be opened
inline constexpr uint32_t kNameBytesMax = 64;
inline constexpr uint32_t kNameCountMax = 1024;

void close_file(int descriptor);

struct FileFacts {
  uint64_t bytes = 0;
  uint64_t links = 0;
};
struct NameList {
  char names[kNameCountMax][kNameBytesMax + 1];
  uint32_t count = 0;
  uint32_t left_out = 0;  ///< names that are longer than kNameBytesMax, or above kNameCountMax
};
/// When it is, as far as this host knows: seconds since this boot, including sleep, and the clock
/// on the wall, which anyone may set.
struct HostTime {
  char boot_id[37] = "";
  uint64_t boot_s = 0;
  uint64_t wall_s = 0;
};

/// What was opened, closed at the end of its block; or the error of that.
class Handle {
 public:
  explicit Handle(const Result<int>& opened) : opened_(opened) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { close_file(release()); }
  const Error& error() const { return opened_.error(); }
  operator int() const { return opened_.ok() ? opened_.value() : kNone; }  // NOLINT: by design
  int release() {
    const int descriptor = *this;
    opened_ = kNone;
    return descriptor;
  }

 private:
  Result<int> opened_;
};

// Every Error below is kFileSystem with subject = `name` (or the call) and value = errno.

/// Opens a folder, or a regular file for reading, beneath `folder`; or, where that is kAnywhere, by
/// a path of the operator's, which may lead over links.
Result<int> open_folder(int folder, const char* name);
Result<int> open_file(int folder, const char* name);
/// Opens a file for writing that only its owner may read until set_mode; a new one where `fresh`.
Result<int> create_file(int folder, const char* name, bool fresh);

Result<FileFacts> file_facts(int descriptor);
/// Fills `buffer` from `offset`; less than its size only at the end of the file.
Result<size_t> read_at(int descriptor, uint64_t offset, std::span<uint8_t> buffer);
Error write_at(int descriptor, uint64_t offset, std::span<const uint8_t> bytes);
Error set_length(int descriptor, uint64_t bytes);
/// Takes space for the first `bytes` bytes of a file, where its file system knows how to.
Error reserve_space(int descriptor, uint64_t bytes);
Error set_mode(int descriptor, uint32_t mode);
/// Waits until a file's bytes, or a folder's names, are on the disk.
Error sync_file(int descriptor);
/// Takes the one lock on a file that is open for writing, or kBusy. It ends with the process.
Error lock_file(int descriptor);
/// Whether this user may change the names in a folder.
Error check_writable(int folder);

/// `mode` whatever the umask says.
Error make_folder(int folder, const char* name, uint32_t mode);
Error rename_file(int folder, const char* from, const char* to);
Error remove_file(int folder, const char* name, bool is_folder);
Error make_link(int folder, const char* name, const char* target);
/// Text of a symbolic link, ended by 0. kFileSystem too where it does not fit.
Error read_link(int folder, const char* name, std::span<char> target);
/// Names in a folder, without `.` and `..`.
Error list_names(int folder, NameList* list);

Result<HostTime> host_time();

/// Runs an executable by its descriptor in `folder`, with `input` as standard input and no
/// environment, until it ends, writes more than `output` holds, or `timeout_ms` has passed.
struct Run {
  int executable = kNone;
  int folder = kNone;
  int input = kNone;
  const char* const* arguments = nullptr;  ///< ended by nullptr
  uint64_t timeout_ms = 0;
  std::span<uint8_t> output;
};
struct Finished {
  uint64_t exit_code = 0;  ///< where it was killed 128 and the signal, as shells tell it
  size_t output_bytes = 0;
};
Result<Finished> run_program(const Run& run);

/// Copies at most `bytes` of a file into anonymous memory, seals it, and returns the copy's
/// descriptor: from then on no process can write, grow or shrink it, through no descriptor and no
/// mapping. `buffer` is for the copying. Also kWriteFailed (memory is short), kSystem.
Result<int> copy_sealed(int file, uint64_t bytes, std::span<uint8_t> buffer);
/// Runs a sealed copy in place of this program, in its environment. Returns only on failure:
/// kSystem (value = errno).
Error execute(int sealed, char* const* arguments);

// The file behind the log ring: made once, locked by its one writer, read from outside.

/// Maps the log file for writing and locks it for the life of this process; the descriptor is
/// closed. A file that exists is taken only if it is a regular file of this user with one name,
/// that size or none, and no right for others; a link is never followed. A new one is zeros.
/// kLogFile (value = errno), kLogForeign (value = mode), kLogBusy, kLogFormat.
Result<uint8_t*> open_log_file(const char* path, size_t bytes);

/// Whether a writer holds the lock of a file that is open for reading.
bool log_has_writer(int descriptor);

}  // namespace bitnet::platform
