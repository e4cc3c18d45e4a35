// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <bit>
#include <cstring>

#include "platform/fs.h"
#include "platform/os.h"

namespace bitnet::platform {
namespace {

Error system_error(Status status, const char* subject) {
  return Error{status, subject, 0, static_cast<uint64_t>(errno), 0};
}

uint64_t now_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Result<std::span<const uint8_t>> map_file(const char* path, Status missing) {
  const Handle file(open_file(kAnywhere, path));
  if (failed(file.error())) return Error{missing, path, 0, file.error().value};
  const uint64_t bytes = file_facts(file).value().bytes;
  if (bytes == 0) return std::span<const uint8_t>();
  void* memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return system_error(missing, path);
  return std::span<const uint8_t>(static_cast<const uint8_t*>(memory), bytes);
}

void unmap(std::span<const uint8_t> memory) {
  munmap(const_cast<uint8_t*>(memory.data()), memory.size());
}

Result<size_t> read_file(const char* path, std::span<uint8_t> buffer) {
  const Handle file(open_file(kAnywhere, path));
  if (failed(file.error())) return Error{Status::kConfigMissing, path, 0, file.error().value};
  const uint64_t bytes = file_facts(file).value().bytes;
  if (bytes <= buffer.size()) return read_at(file, 0, buffer);
  return Error{Status::kConfigTooLarge, path, 0, bytes, buffer.size()};
}

Result<std::span<uint8_t>> reserve_memory(size_t bytes, const char* what, bool huge_pages) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Error{Status::kNoMemory, what, 0, bytes, 0};
  // Without them everything is as right and perhaps slower.
  if (huge_pages) (void)madvise(memory, bytes, MADV_HUGEPAGE);
  return std::span<uint8_t>(static_cast<uint8_t*>(memory), bytes);
}

Result<std::span<const uint8_t>> copy_to_huge_pages(std::span<const uint8_t> bytes) {
  const size_t room = (bytes.size() + 2 * kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  uint8_t* const begin = BITNET_VALUE(reserve_memory(room, "weights", true)).data();
  const size_t gap = -reinterpret_cast<uintptr_t>(begin) % kHugePageBytes;
  // Step by step, each giving the pages of the source back, so that both never count together.
  for (size_t at = 0; at < bytes.size(); at += kHugePageBytes) {
    const size_t left = bytes.size() - at;
    const size_t step = left < kHugePageBytes ? left : kHugePageBytes;
    std::memcpy(begin + gap + at, bytes.data() + at, step);
    (void)madvise(const_cast<uint8_t*>(bytes.data()) + at, step, MADV_DONTNEED);
  }
  const size_t end = gap + (bytes.size() + page_bytes() - 1) / page_bytes() * page_bytes();
  if (gap != 0) munmap(begin, gap);
  munmap(begin + end, room - end);
  BITNET_TRY(protect_read_only({begin + gap, end - gap}));
  return std::span<const uint8_t>(begin + gap, bytes.size());
}

Error protect_read_only(std::span<const uint8_t> memory) {
  const uintptr_t page = page_bytes();
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(memory.data()) + memory.size();
  // Linked for smaller pages than the kernel's: the last part would stay writable.
  if (end % page != 0) return Error{Status::kSystem, "page size", 0, EINVAL};
  const int result = mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_READ);
  return result == 0 ? kNoError : system_error(Status::kSystem, "mprotect");
}

Error prepare_streams() {
  constexpr const char* kNames[] = {"standard input", "standard output", "standard error"};
  for (int stream = kStdin; stream <= kStderr; ++stream) {
    const int flags = fcntl(stream, F_GETFL);
    if (flags < 0) return Error{Status::kStreamClosed, kNames[stream]};
    if ((flags & O_NONBLOCK) != 0) fcntl(stream, F_SETFL, flags & ~O_NONBLOCK);
  }
  return kNoError;
}

uint64_t clock_ns() { return now_ns(CLOCK_MONOTONIC); }

uint64_t unix_ns() { return now_ns(CLOCK_REALTIME); }

uint64_t boot_ns() { return now_ns(CLOCK_BOOTTIME); }

void sleep_ms(uint32_t milliseconds) {
  const struct timespec time = {milliseconds / 1000,
                                static_cast<long>(milliseconds % 1000) * 1000000};
  nanosleep(&time, nullptr);
}

size_t page_bytes() { return getauxval(AT_PAGESZ); }

uint64_t process_id() { return static_cast<uint64_t>(getpid()); }

uint32_t processor_count() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  return static_cast<uint32_t>(CPU_COUNT(&allowed));
}

Error pin_to_core(uint32_t core) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  if (sched_setaffinity(0, sizeof one, &one) == 0) return kNoError;
  return Error{Status::kNoCore, "cores", 0, static_cast<uint64_t>(errno), core};
}

uint64_t hardware_capabilities() {
  return (getauxval(AT_HWCAP) & 0xffffffffu) | uint64_t{getauxval(AT_HWCAP2)} << 32;
}

std::span<const uint8_t> program_headers() {
  const size_t bytes = getauxval(AT_PHNUM) * getauxval(AT_PHENT);
  return {reinterpret_cast<const uint8_t*>(getauxval(AT_PHDR)), bytes};
}

Result<ParkPipe> make_park_pipe() {
  int descriptors[2];
  if (pipe2(descriptors, O_CLOEXEC) != 0) return system_error(Status::kSystem, "pipe2");
  return ParkPipe{descriptors[0], descriptors[1]};
}

void park_wait(const ParkPipe& pipe) {
  uint8_t byte;
  while (read(pipe.read_descriptor, &byte, 1) != 1) {
  }
}

void park_wake(const ParkPipe& pipe) {
  const uint8_t byte = 1;
  while (write(pipe.write_descriptor, &byte, 1) != 1) {
  }
}

Result<Thread> start_thread(void* (*entry)(void*), void* argument) {
  pthread_t handle;
  const int reason = pthread_create(&handle, nullptr, entry, argument);
  if (reason != 0) return Error{Status::kNoThread, "thread", 0, static_cast<uint64_t>(reason), 0};
  return std::bit_cast<Thread>(handle);
}

void join_thread(Thread thread) { pthread_join(std::bit_cast<pthread_t>(thread), nullptr); }

void exit_process(int code) { _exit(code); }

}  // namespace bitnet::platform
