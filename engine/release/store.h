// The folders of an installation: state, log, links and releases on the disk.
// SPDX-License-Identifier: Apache-2.0
//
// The state is the one authority: it names what runs, and the links follow it. Each step leaves the
// disk such that a power cut before, within or after it is harmless; what is called durable here
// has been synced together with the folder that names it.
#pragma once

#include "release/archive.h"
#include "release/content.h"
#include "release/state.h"
#include "release/trust.h"

namespace bitnet::release {

inline constexpr uint64_t kSelftestMs = 300000;
inline constexpr size_t kAnswerBytesMax = 65536;
inline constexpr char kIncoming[] = ".incoming";
inline constexpr char kEtcPath[] = "/etc/bitnet";

/// Everything that an update holds in memory, about 16 MiB of which little is touched.
struct Host {
  const char* prefix = "";
  uint8_t denied[platform::kPathBytesMax + sizeof kEtcPath + 2];  ///< the folder that is, as text
  // Folders, held open.
  int opt = -1;     ///< /opt
  int folder = -1;  ///< /opt/bitnet.d, locked
  int etc = -1;     ///< /etc/bitnet
  State state;
  TrustRoot root;
  TrustRoot next_root;
  ReleaseName at;  ///< what is worked on; errors point to it
  // What is being looked at.
  SignedRelease release;
  RollbackOrder order;
  Bundle bundle;
  Archive archive;
  bool changed = false;  ///< whether something was installed
  platform::NameList names;
  Folder look;
  uint8_t root_file[kContainerBytesMax];
  uint8_t other_file[kContainerBytesMax];  ///< an order, or the next root
  alignas(64) uint8_t buffer[kBundleBufferBytes];
  alignas(64) uint8_t zstd[kZstdMemoryBytes];
};

/// Opens the folders beneath `prefix` ("" for none) and reads the state. To write: creates what is
/// missing, takes the lock, and makes durable what an earlier run may have left. kStreamClosed,
/// kBusy, kFolderForeign, kFileSystem, kStateMissing where releases lie about without a state, or,
/// not to write, where there is none.
Error open_host(const char* prefix, bool to_write, Host* host);
/// The error as it is; or, where this user has not the right, kFolderForeign with prefix and path.
Error denied(Host* host, const Error& error, const char* path);

/// Counts the time since the last run, and writes the state where that is worth it.
Error tick(Host* host);
/// Counts the time, then writes a line of the log and the state that counts it: durable together,
/// or not at all.
Error commit(Host* host, const char* event, const char* subject);
/// The same for the release that is looked at, which was refused; but of a series without another
/// event in between only the first, second, fourth, eighth … line is written, the others are
/// counted: whoever offers bad bundles without end fills no disk, and leaves his trace.
Error note_refusal(Host* host, Status status);

/// Whether /opt/bitnet and /opt/bitnet.old point to what the state says.
bool links_fit(const Host& host);
/// Makes them so, each by one rename; durable.
Error set_links(Host* host);

/// Writes and syncs a file from `offset` to its end. The name is durable only with the folder.
Error write_file(int folder, const char* name, uint32_t mode, uint64_t offset, Text bytes);

/// Verifies an installed release file by file, and that nothing else lies in its folder. Leaves its
/// statement in `release`; who signed is not looked at. As check_folder.
Error check_installed(Host* host, const ReleaseName& name);

/// Asks the release that is looked at for its known answer; it writes no log. kSelftest;
/// kSelftestHost where it says that this host keeps it from running; kFileSystem.
Error selftest(Host* host, const ReleaseName& name);

/// Removes a folder of files, if it is there. Not durable: recovery repeats it.
Error remove_folder(Host* host, const char* name);

}  // namespace bitnet::release
