// What the kernel can take away from this process, one call each. Only the policy in
// runtime/lockdown.h decides which of them must succeed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

namespace bitnet::platform {

/// 0, or the errno of the call that was refused.
using Reason = uint32_t;
inline constexpr Reason kBadDescriptor = 9;
/// Whether the kernel does not know the call or the option, rather than refusing it.
bool means_unknown(Reason reason);

// Memory. Each takes the pages that `memory` touches.

/// Keeps the pages in memory, never in swap; raises the soft limit to the hard one first.
Reason lock_memory(std::span<const uint8_t> memory);
/// Leaves the pages out of dumps.
Reason exclude_from_dumps(std::span<const uint8_t> memory);
/// Makes unmapping, moving and changing the protection of the pages impossible (Linux 6.10).
Reason seal_mapping(std::span<const uint8_t> memory);
/// The calling thread's stack as far as it is mapped; a place where nothing is mapped, so that none
/// of the above succeeds, if the C library cannot tell or a filter refuses what it asks.
std::span<const uint8_t> own_stack();
/// Zeros that the compiler may not leave out.
void wipe(std::span<uint8_t> memory);

// The process; they hold for threads that are started later.

/// Writing to where nobody reads any more is an error, and ends no process.
void ignore_broken_pipes();
Reason forbid_core_files();
/// Not dumpable: no core, and no other process of the same user may look into the memory.
Reason forbid_inspection();
Reason forbid_new_privileges();
/// No page becomes executable any more (Linux 6.3).
Reason forbid_executable_memory();
/// Denies every file, TCP, UDP and scope right that both this program and the kernel know;
/// *version is the ABI of the kernel's Landlock (0: none). The rule set has no rule.
Reason forbid_files_and_network(uint32_t* version);
/// Closes all descriptors from `first` on.
Reason close_descriptors_from(int first);

// The filter of system calls.

/// Whether reading the monotonic clock reaches the kernel: without vDSO, or with a clock source
/// that it cannot serve. True also where that cannot be found out.
bool clock_needs_system_call();

/// Allows, on all threads and for good, `read` of standard input and of park pipes, `write` to
/// standard output, standard error and park pipes, `exit_group`, and with `clock`
/// clock_gettime(CLOCK_MONOTONIC). Any other call, of any architecture, kills the process. Park
/// pipes have the descriptors behind standard error: each a read end and then its write end.
Reason install_filter(uint32_t pipe_count, bool clock);

}  // namespace bitnet::platform
