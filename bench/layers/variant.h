// engine/platform/lockdown_linux.cc with some layers left out, for measuring what they cost. The
// product has no such switch: these builds exist here alone. kLayers says what stays.
// SPDX-License-Identifier: Apache-2.0
#include "platform/lockdown.h"

#define lock_memory real_lock_memory
#define exclude_from_dumps real_exclude_from_dumps
#define seal_mapping real_seal_mapping
#define forbid_core_files real_forbid_core_files
#define forbid_inspection real_forbid_inspection
#define forbid_new_privileges real_forbid_new_privileges
#define forbid_executable_memory real_forbid_executable_memory
#define forbid_files_and_network real_forbid_files_and_network
#define install_filter real_install_filter
namespace bitnet::platform {
Reason lock_memory(std::span<const uint8_t> memory);
Reason exclude_from_dumps(std::span<const uint8_t> memory);
Reason seal_mapping(std::span<const uint8_t> memory);
Reason forbid_core_files();
Reason forbid_inspection();
Reason forbid_new_privileges();
Reason forbid_executable_memory();
Reason forbid_files_and_network(uint32_t* version);
Reason install_filter(uint32_t pipe_count, bool clock);
}  // namespace bitnet::platform
#include "platform/lockdown_linux.cc"
#undef lock_memory
#undef exclude_from_dumps
#undef seal_mapping
#undef forbid_core_files
#undef forbid_inspection
#undef forbid_new_privileges
#undef forbid_executable_memory
#undef forbid_files_and_network
#undef install_filter

namespace bitnet::platform {

/// kMemory: locked. kFilter: the filter, and no dump of any kind. Each holds what is before it.
enum Layers { kNone, kMemory, kFilter };

Reason lock_memory(std::span<const uint8_t> memory) {
  return kLayers >= kMemory ? real_lock_memory(memory) : 0;
}
Reason exclude_from_dumps(std::span<const uint8_t> memory) {
  return kLayers >= kFilter ? real_exclude_from_dumps(memory) : 0;
}
Reason forbid_core_files() { return kLayers >= kFilter ? real_forbid_core_files() : 0; }
Reason forbid_inspection() { return kLayers >= kFilter ? real_forbid_inspection() : 0; }
// The kernel takes a filter from an ordinary user only with it.
Reason forbid_new_privileges() { return kLayers >= kFilter ? real_forbid_new_privileges() : 0; }
Reason install_filter(uint32_t pipe_count, bool clock) {
  return kLayers >= kFilter ? real_install_filter(pipe_count, clock) : 0;
}
Reason seal_mapping(std::span<const uint8_t>) { return 0; }
Reason forbid_executable_memory() { return 0; }
Reason forbid_files_and_network(uint32_t*) { return 0; }

}  // namespace bitnet::platform
