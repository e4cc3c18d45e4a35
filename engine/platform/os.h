// The only door to the kernel: files, memory, clock, threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace bitnet::platform {

inline constexpr int kStdin = 0;
inline constexpr int kStdout = 1;
inline constexpr int kStderr = 2;

/// Maps a regular file read-only; of an empty one there is nothing. `missing` (value = errno) if it
/// cannot be opened or mapped.
Result<std::span<const uint8_t>> map_file(const char* path, Status missing = Status::kModelMissing);
/// Gives a mapping, or memory that was reserved, back.
void unmap(std::span<const uint8_t> memory);

/// Reads a whole regular file of at most `buffer.size()` bytes; returns the count.
/// kConfigMissing (value = errno), kConfigTooLarge (limit = buffer size), kFileSystem.
Result<size_t> read_file(const char* path, std::span<uint8_t> buffer);

/// Zeroed private memory, which asks for pages of 2 MiB if it shall. kNoMemory (subject = `what`,
/// value = bytes).
Result<std::span<uint8_t>> reserve_memory(size_t bytes, const char* what, bool huge_pages);

inline constexpr size_t kHugePageBytes = size_t{2} << 20;

/// A read-only copy of `bytes`, a mapped file, on huge pages of private memory, as far as there are
/// any: a mapping of its own that begins where one does and ends with the last page that it needs.
/// It lives as long as the program; the pages of the file are given back. kNoMemory (value =
/// bytes), kSystem.
Result<std::span<const uint8_t>> copy_to_huge_pages(std::span<const uint8_t> bytes);

/// Of a page of memory: 4096, or on AArch64 perhaps 16384 or 65536.
size_t page_bytes();

/// Makes `memory` read-only, from the page of its first byte on. kSystem (value = errno), also
/// where it does not end with a page.
Error protect_read_only(std::span<const uint8_t> memory);

/// Standard input, output and error must be open, or what is opened next would be taken for them;
/// and are made to wait where a program before has left them in O_NONBLOCK. kStreamClosed.
Error prepare_streams();
/// Reads until end of input or until `buffer` is full; returns the count. kReadFailed (value =
/// errno).
Result<size_t> read_all(int descriptor, std::span<uint8_t> buffer);
/// Writes everything. kWriteFailed (value = errno).
Error write_all(int descriptor, std::span<const uint8_t> bytes);

/// Monotonic time, served without a system call where the kernel's vDSO allows.
uint64_t clock_ns();
/// Time of day; and since this boot, with sleep.
uint64_t unix_ns();
uint64_t boot_ns();
void sleep_ms(uint32_t milliseconds);
uint64_t process_id();

/// Processors that this program may run on, at least 1.
uint32_t processor_count();
/// Keeps the calling thread on one processor. kNoCore (value = errno, limit = the processor).
Error pin_to_core(uint32_t core);

/// AT_HWCAP of the running program in the lower and AT_HWCAP2 in the upper 32 bits.
uint64_t hardware_capabilities();
/// The running program's own program headers, where they are loaded.
std::span<const uint8_t> program_headers();

/// A pipe for parking a thread: `wait` blocks in read until `wake` has written one byte.
struct ParkPipe {
  int read_descriptor = -1;
  int write_descriptor = -1;
};
Result<ParkPipe> make_park_pipe();
void park_wait(const ParkPipe& pipe);
void park_wake(const ParkPipe& pipe);

/// Starts a thread that runs entry(argument). kNoThread (value = errno).
using Thread = unsigned long;
Result<Thread> start_thread(void* (*entry)(void*), void* argument);
void join_thread(Thread thread);

[[noreturn]] void exit_process(int code);

}  // namespace bitnet::platform
