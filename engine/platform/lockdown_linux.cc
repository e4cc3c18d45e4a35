// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

#include "base/check.h"
#include "platform/lockdown.h"
#include "platform/os.h"

namespace bitnet::platform {
namespace {

// Younger than the C library's headers; the same numbers on every architecture.
constexpr long kMseal = 462;
constexpr int kPrSetMdwe = 65;
constexpr unsigned long kMdweRefuseExecGain = 1;

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#else
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

Reason reason_of(long result) { return result < 0 ? static_cast<Reason>(errno) : 0; }

struct Pages {
  void* begin;
  size_t bytes;
};

Pages pages_of(std::span<const uint8_t> memory) {
  const uintptr_t mask = page_bytes() - 1;
  const uintptr_t first = reinterpret_cast<uintptr_t>(memory.data());
  const uintptr_t begin = first & ~mask;
  return {reinterpret_cast<void*>(begin), ((first + memory.size() + mask) & ~mask) - begin};
}

constexpr uint64_t low_bits(uint32_t count) { return (uint64_t{1} << count) - 1; }

/// The rights that Landlock of an ABI handles: all that it knows, of those that we know.
landlock_ruleset_attr landlock_rights(uint32_t version) {
  landlock_ruleset_attr rights{};
  const uint32_t files = version >= 9 ? 17 : version >= 5 ? 16 : version >= 3 ? 15 : 12 + version;
  rights.handled_access_fs = low_bits(files);
  rights.handled_access_net = low_bits(version >= 10 ? 4 : version >= 4 ? 2 : 0);
  rights.scoped = low_bits(version >= 6 ? 2 : 0);
  return rights;
}
static_assert(LANDLOCK_ACCESS_FS_MAKE_SYM == uint64_t{1} << 12);
static_assert(LANDLOCK_ACCESS_FS_TRUNCATE == uint64_t{1} << 14);
static_assert(LANDLOCK_ACCESS_FS_IOCTL_DEV == uint64_t{1} << 15);
static_assert(LANDLOCK_SCOPE_SIGNAL == uint64_t{1} << 1);

// A filter is a program of at most kFilterMax instructions; jumps count from the next one.
constexpr size_t kFilterMax = 64;
constexpr uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS;
constexpr uint16_t kJumpIfEqual = BPF_JMP | BPF_JEQ | BPF_K;
constexpr uint16_t kJumpIfNotBelow = BPF_JMP | BPF_JGE | BPF_K;
constexpr uint16_t kReturn = BPF_RET | BPF_K;
constexpr uint32_t kNumber = offsetof(seccomp_data, nr);
// Little-endian: the low half of the first argument. The kernel reads a descriptor from 32 bits.
constexpr uint32_t kArgument = offsetof(seccomp_data, args);

/// Lets a call pass whose first argument is one of `count` values from `first` on, `step` (1 or 2)
/// apart.
struct Rule {
  uint32_t call;
  uint32_t first;
  uint32_t count;
  uint32_t step;
};

struct FilterProgram {
  sock_filter code[kFilterMax];
  unsigned short count = 0;

  void add(uint16_t operation, uint32_t value, uint8_t if_true = 0, uint8_t if_false = 0) {
    ENGINE_CHECK(count < kFilterMax);
    code[count++] = sock_filter{operation, if_true, if_false, value};
  }
  /// What the rule does not fit goes on behind it.
  void add_rule(const Rule& rule) {
    add(kLoad, kNumber);
    add(kJumpIfEqual, rule.call, 0, 6);
    add(kLoad, kArgument);
    add(BPF_ALU | BPF_SUB | BPF_K, rule.first);
    add(kJumpIfNotBelow, rule.count * rule.step, 3, 0);
    add(BPF_ALU | BPF_AND | BPF_K, rule.step - 1);
    add(kJumpIfEqual, 0, 0, 1);
    add(kReturn, SECCOMP_RET_ALLOW);
  }
  /// Installs it on the calling thread (flags 0) or on all threads.
  Reason install(unsigned flags) {
    const sock_fprog program{count, code};
    long result = 0;
    // A positive result is the id of a thread that could not be brought along. Before Linux 6.11
    // that may be the one that tried the clock: joined, and still on its way out.
    for (int tries = 0; tries < 100; ++tries, sleep_ms(1)) {
      result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
      if (result <= 0) break;
    }
    return result > 0 ? Reason{ESRCH} : reason_of(result);
  }
};

/// On a thread of its own: with clock_gettime refused to it, can it still read the clock?
void* try_clock(void* needs_system_call) {
  FilterProgram program;
  program.add(kLoad, kNumber);
  program.add(kJumpIfEqual, SYS_clock_gettime, 0, 1);
  program.add(kReturn, SECCOMP_RET_ERRNO | EPERM);
  program.add(kReturn, SECCOMP_RET_ALLOW);
  struct timespec now;
  if (program.install(0) != 0) return nullptr;
  *static_cast<bool*>(needs_system_call) = clock_gettime(CLOCK_MONOTONIC, &now) != 0;
  return nullptr;
}

}  // namespace

static_assert(kBadDescriptor == EBADF);

bool means_unknown(Reason reason) {
  return reason == ENOSYS || reason == EINVAL || reason == EOPNOTSUPP;
}

Reason lock_memory(std::span<const uint8_t> memory) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &limit);
  }
  const Pages pages = pages_of(memory);
  return reason_of(mlock(pages.begin, pages.bytes));
}

Reason exclude_from_dumps(std::span<const uint8_t> memory) {
  const Pages pages = pages_of(memory);
  return reason_of(madvise(pages.begin, pages.bytes, MADV_DONTDUMP));
}

Reason seal_mapping(std::span<const uint8_t> memory) {
  const Pages pages = pages_of(memory);
  return reason_of(syscall(kMseal, pages.begin, pages.bytes, 0));
}

std::span<const uint8_t> own_stack() {
  const std::span<const uint8_t> nowhere(static_cast<const uint8_t*>(nullptr), 1);
  pthread_attr_t attributes;
  void* begin = nullptr;
  size_t bytes = 0;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return nowhere;
  pthread_attr_getstack(&attributes, &begin, &bytes);
  pthread_attr_destroy(&attributes);
  const uintptr_t name = getauxval(AT_EXECFN);
  if (gettid() == getpid() && name > reinterpret_cast<uintptr_t>(begin)) {
    // The C library takes the first page that is not answered with "occupied" to be beyond the
    // stack: such a page must not exist, rather than the question have been refused.
    const size_t page = page_bytes();
    const long moved = syscall(SYS_mremap, static_cast<uint8_t*>(begin) - page, page, 2 * page, 0);
    if (moved != -1 || errno != EFAULT) return nowhere;
    // Above the C library's idea of the stack the kernel has put arguments and environment; the
    // name of the program is the last of them.
    bytes = name + std::strlen(reinterpret_cast<const char*>(name)) + 1 -
            reinterpret_cast<uintptr_t>(begin);
  }
  return {static_cast<const uint8_t*>(begin), bytes};
}

void wipe(std::span<uint8_t> memory) {
  std::memset(memory.data(), 0, memory.size());
  __asm__ volatile("" : : "r"(memory.data()) : "memory");
}

void ignore_broken_pipes() { signal(SIGPIPE, SIG_IGN); }

Reason forbid_core_files() {
  const struct rlimit none = {0, 0};
  return reason_of(setrlimit(RLIMIT_CORE, &none));
}

Reason forbid_inspection() { return reason_of(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); }

Reason forbid_new_privileges() { return reason_of(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }

Reason forbid_executable_memory() {
  return reason_of(prctl(kPrSetMdwe, kMdweRefuseExecGain, 0, 0, 0));
}

Reason forbid_files_and_network(uint32_t* version) {
  const long abi =
      syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  *version = abi < 0 ? 0 : static_cast<uint32_t>(abi);
  if (abi <= 0) return abi < 0 ? reason_of(abi) : Reason{ENOSYS};
  const landlock_ruleset_attr rights = landlock_rights(*version);
  // The kernel takes a longer struct than it knows as long as the rest is zero.
  const long rules = syscall(SYS_landlock_create_ruleset, &rights, sizeof rights, 0);
  if (rules < 0) return reason_of(rules);
  const Reason reason = reason_of(syscall(SYS_landlock_restrict_self, rules, 0));
  close(static_cast<int>(rules));
  return reason;
}

Reason close_descriptors_from(int first) {
  const Reason reason = reason_of(syscall(SYS_close_range, static_cast<unsigned>(first), ~0u, 0));
  // The layer is missing then, and yet the pipes need the lowest numbers.
  for (int each = first; reason != 0 && each < 1024; ++each) close(each);
  return reason;
}

bool clock_needs_system_call() {
  if (getauxval(AT_SYSINFO_EHDR) == 0) return true;
  bool needed = true;
  const Result<Thread> thread = start_thread(try_clock, &needed);
  if (thread.ok()) join_thread(thread.value());
  return needed;
}

Reason install_filter(uint32_t pipe_count, bool clock) {
  // Before Linux 4.14 the action would be taken for the one that kills a thread and no more.
  const uint32_t action = SECCOMP_RET_KILL_PROCESS;
  if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) != 0) return reason_of(-1);
  // Everything that is allowed; of a pipe the end for reading comes first.
  const Rule rules[] = {
      {SYS_read, kStderr + 1, pipe_count, 2},
      {SYS_write, kStderr + 2, pipe_count, 2},
      {SYS_read, kStdin, 1, 1},
      {SYS_write, kStdout, 2, 1},
      {SYS_exit_group, 0, UINT32_MAX, 1},
      {SYS_clock_gettime, CLOCK_MONOTONIC, clock ? 1u : 0u, 1},
  };
  static_assert(kStderr == kStdout + 1);
  FilterProgram program;
  program.add(kLoad, offsetof(seccomp_data, arch));
  program.add(kJumpIfEqual, kArchitecture, 1, 0);
  program.add(kReturn, SECCOMP_RET_KILL_PROCESS);
  // The x32 form of x86-64, which shares its architecture, has numbers of its own.
  for (const Rule& rule : rules) program.add_rule(rule);
  program.add(kReturn, SECCOMP_RET_KILL_PROCESS);
  return program.install(SECCOMP_FILTER_FLAG_TSYNC);
}

}  // namespace bitnet::platform
