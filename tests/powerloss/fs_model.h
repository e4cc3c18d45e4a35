// A file system in memory that knows what a power cut may leave (the abstract persistence model of
// ALICE): fsync of a file makes its bytes and mode durable, fsync of a folder makes its names
// durable; everything else may or may not have reached the disk, in any combination.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace model {

struct Node {
  bool folder = false;
  uint32_t mode = 0;
  std::string data;  ///< content, or the target of a link
  bool link = false;
  std::map<std::string, int> entries;
};
using Tree = std::map<int, Node>;  ///< by inode; 1 is the prefix

/// One call that has not been synced.
struct Pending {
  enum class Kind { kNames, kWrite, kLength, kMode } kind;
  int inode;
  std::vector<std::pair<std::string, int>> names;  ///< 0: removed
  uint64_t offset = 0;
  std::string bytes;
  uint32_t mode = 0;
  bool lost = false;  ///< an fsync failed: no later one makes these bytes durable

  /// In how many ways this can have reached the disk.
  unsigned choices() const { return kind == Kind::kWrite ? 4 : 2; }
  /// 0: not at all, 1: all of it, 2: half of the bytes, 3: the length without the bytes.
  void apply(Tree* tree, unsigned choice) const;
};

struct World {
  Tree now;      ///< what running programs see
  Tree durable;  ///< what is certainly on the disk
  std::vector<Pending> pending;
  std::map<std::string, std::string> media;  ///< the operator's files, by path
  int next_inode = 2;
  unsigned boot = 1;
  uint64_t clock_s = 1000;
  uint64_t room = UINT64_MAX;  ///< bytes of content that the disk still takes

  World();
  void sync_all();
  /// After a power cut in which pending call i reached the disk as choices[i] says.
  World after_cut(const std::vector<unsigned>& choices) const;
  int find(const std::string& path) const;  ///< inode beneath the prefix, 0 if there is none
};

/// The one that the calls of platform/fs.h work on.
extern World world;

/// What happens to the calls of a run. Calls count from 1.
struct Plan {
  uint64_t kill_before = 0;  ///< the process ends instead of this call
  uint64_t fail = 0;         ///< this call fails …
  int reason = 0;            ///< … with this errno, and does nothing
  uint64_t calls = 0;        ///< counted
};
extern Plan plan;

/// Runs `job` under a plan; false where it was killed.
bool run(const Plan& wanted, void (*job)());

}  // namespace model
