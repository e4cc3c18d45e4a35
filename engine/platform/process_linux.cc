// Other programs: what fs.h says of running them. No part of bitnet-infer.
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "platform/fs.h"
#include "platform/os.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

namespace bitnet::platform {
namespace {

Error refused(Status status, const char* subject) {
  return Error{status, subject, 0, static_cast<uint64_t>(errno)};
}

/// The child's side of run_program: never returns.
[[noreturn]] void become(const Run& run, int output) {
  char* const environment[] = {nullptr};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (dup2(run.input, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 &&
      fchdir(run.folder) == 0) {
    syscall(SYS_execveat, run.executable, "", run.arguments, environment, AT_EMPTY_PATH);
  }
  _exit(errno == ENOEXEC ? 127 : 5);  // as shells tell it; else this host keeps it from running
}

}  // namespace

Result<Finished> run_program(const Run& run) {
  // What it writes goes to memory, so that nothing here waits for it but the loop below.
  const Handle output(memfd_create("answer", MFD_CLOEXEC));
  if (output < 0) return refused(Status::kFileSystem, "memfd_create");
  signal(SIGCHLD, SIG_DFL);  // ignored, it would leave nothing to wait for
  const pid_t child = fork();
  if (child == 0) become(run, output);
  if (child < 0) return refused(Status::kFileSystem, "fork");
  const uint64_t end_ns = clock_ns() + run.timeout_ms * 1000000;
  const auto fits = [&] { return file_facts(output).value().bytes <= run.output.size(); };
  int status = 0;
  pid_t gone = 0;
  while (gone == 0 && fits() && clock_ns() < end_ns) {
    sleep_ms(1);
    gone = waitpid(child, &status, WNOHANG);
  }
  if (gone == 0) {
    kill(child, SIGKILL);
    gone = waitpid(child, &status, 0);
  }
  if (gone < 0) return refused(Status::kFileSystem, "waitpid");
  const size_t got = BITNET_VALUE(read_at(output, 0, run.output));
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return Finished{static_cast<uint64_t>(fits() ? code : 128 + SIGKILL), got};
}

Result<int> copy_sealed(int file, uint64_t bytes, std::span<uint8_t> buffer) {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  // Kernels before 6.3 do not know MFD_EXEC and need no flag.
  int descriptor = memfd_create("bitnet", kFlags | MFD_EXEC);
  if (descriptor < 0 && errno == EINVAL) descriptor = memfd_create("bitnet", kFlags);
  if (descriptor < 0) return refused(Status::kSystem, "memfd_create");
  Handle copy(descriptor);
  for (uint64_t offset = 0; offset < bytes;) {
    const uint64_t left = bytes - offset;
    const size_t count =
        BITNET_VALUE(read_at(file, offset, left < buffer.size() ? buffer.first(left) : buffer));
    if (count == 0) break;
    BITNET_TRY(write_all(copy, buffer.first(count)));
    offset += count;
  }
  constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  if (fcntl(copy, F_ADD_SEALS, kSeals) != 0) return refused(Status::kSystem, "F_ADD_SEALS");
  return copy.release();
}

Error execute(int sealed, char* const* arguments) {
  syscall(SYS_execveat, sealed, "", arguments, environ, AT_EMPTY_PATH);
  return refused(Status::kSystem, "execveat");
}

}  // namespace bitnet::platform
