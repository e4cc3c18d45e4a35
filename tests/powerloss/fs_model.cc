#include "fs_model.h"

#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "platform/fs.h"
#include "platform/os.h"

namespace model {

World world;
Plan plan;

namespace {
std::jmp_buf killed;
std::vector<std::string> media_open;
}  // namespace

bool run(const Plan& wanted, void (*job)()) {
  plan = wanted;
  media_open.clear();
  // Nothing on the way holds memory: the engine has none, and each call stops before it begins.
  if (setjmp(killed) != 0) return false;
  job();
  return true;
}

void Pending::apply(Tree* tree, unsigned choice) const {
  if (choice == 0) return;
  Node& node = (*tree)[inode];
  if (kind == Kind::kNames) {
    for (const auto& [name, child] : names) {
      if (child == 0) {
        node.entries.erase(name);
      } else {
        node.entries[name] = child;
      }
    }
  } else if (kind == Kind::kWrite) {
    if (node.data.size() < offset + bytes.size()) node.data.resize(offset + bytes.size());
    const size_t count = choice == 1 ? bytes.size() : choice == 2 ? bytes.size() / 2 : 0;
    node.data.replace(offset, count, bytes, 0, count);
  } else if (kind == Kind::kLength) {
    node.data.resize(offset);
  } else {
    node.mode = mode;
  }
}

World::World() {
  now[1] = Node{true, 0755, "", false, {}};
  durable = now;
}

void World::sync_all() {
  durable = now;
  pending.clear();
}

World World::after_cut(const std::vector<unsigned>& choices) const {
  World next = *this;
  for (size_t i = 0; i < pending.size(); ++i) pending[i].apply(&next.durable, choices[i]);
  next.now = next.durable;
  next.pending.clear();
  next.boot += 1;
  return next;
}

int World::find(const std::string& path) const {
  int inode = 1;
  for (size_t at = 0; at < path.size();) {
    size_t end = path.find('/', at);
    if (end == std::string::npos) end = path.size();
    const auto node = now.find(inode);
    const auto entry = node->second.entries.find(path.substr(at, end - at));
    if (entry == node->second.entries.end()) return 0;
    inode = entry->second;
    at = end + 1;
  }
  return inode;
}

}  // namespace model

namespace bitnet::platform {
namespace {

using model::killed;
using model::media_open;
using model::Node;
using model::Pending;
using model::plan;
using model::world;

// Descriptors: inodes above kInodes, operator's files above kMedia.
constexpr int kInodes = 1000;
constexpr int kMedia = 1000000;
Error fault(const char* subject, int reason) {
  return Error{Status::kFileSystem, subject, 0, static_cast<uint64_t>(reason), 0};
}

/// Every call passes here: it may be the last one, or fail.
Error step(const char* subject) {
  plan.calls += 1;
  if (plan.calls == plan.kill_before) std::longjmp(killed, 1);
  return plan.calls == plan.fail ? fault(subject, plan.reason) : kNoError;
}

Node& node_of(int descriptor) { return world.now[descriptor - kInodes]; }

const std::string& bytes_of(int descriptor) {
  return descriptor >= kMedia ? media_open[static_cast<size_t>(descriptor - kMedia)]
                              : node_of(descriptor).data;
}

void record(Pending pending) {
  pending.apply(&world.now, 1);
  world.pending.push_back(std::move(pending));
}

Result<int> lookup(int folder, const char* name, bool want_folder) {
  const auto& entries = node_of(folder).entries;
  const auto found = entries.find(name);
  if (found == entries.end()) return fault(name, ENOENT);
  const Node& node = world.now[found->second];
  if (node.link) return fault(name, ELOOP);
  if (node.folder != want_folder) return fault(name, want_folder ? ENOTDIR : EINVAL);
  return kInodes + found->second;
}

/// Takes room for a file that grows to `bytes`.
Error grow(int descriptor, uint64_t bytes, const char* subject) {
  const uint64_t before = node_of(descriptor).data.size();
  const uint64_t more = bytes > before ? bytes - before : 0;
  if (more > world.room) return fault(subject, ENOSPC);
  if (world.room != UINT64_MAX) world.room -= more;
  return kNoError;
}

/// What has lost its name gives its room back.
void release_room(const Node& node) {
  if (world.room != UINT64_MAX && !node.link) world.room += node.data.size();
}

int new_inode(Node node) {
  const int inode = world.next_inode++;
  world.durable[inode] = node;  // reachable only through a name
  world.now[inode] = std::move(node);
  return inode;
}

void name_it(int folder, const char* name, int inode) {
  record({Pending::Kind::kNames, folder - kInodes, {{name, inode}}});
}

}  // namespace

Result<int> open_folder(int folder, const char* name) {
  BITNET_TRY(step(name));
  if (folder != kAnywhere) return lookup(folder, name, true);
  if (std::strcmp(name, "/prefix") != 0) return fault(name, ENOTDIR);
  return kInodes + 1;
}

Result<int> open_file(int folder, const char* name) {
  BITNET_TRY(step(name));
  if (folder != kAnywhere) return lookup(folder, name, false);
  const auto found = world.media.find(name);
  if (found == world.media.end()) return fault(name, ENOENT);
  media_open.push_back(found->second);
  return kMedia + static_cast<int>(media_open.size()) - 1;
}

Result<int> create_file(int folder, const char* name, bool fresh) {
  BITNET_TRY(step(name));
  if (node_of(folder).entries.contains(name)) {
    return fresh ? fault(name, EEXIST) : lookup(folder, name, false);
  }
  const int inode = new_inode(Node{false, 0600, "", false, {}});
  name_it(folder, name, inode);
  return kInodes + inode;
}

void close_file(int descriptor) {
  if (descriptor >= kMedia && descriptor - kMedia + 1 == static_cast<int>(media_open.size())) {
    media_open.pop_back();
  }
}

Result<FileFacts> file_facts(int descriptor) {
  BITNET_TRY(step("fstat"));
  if (descriptor >= kMedia) return FileFacts{bytes_of(descriptor).size(), 1};
  const Node& node = node_of(descriptor);
  return FileFacts{node.data.size(), 1};
}

Result<size_t> read_at(int descriptor, uint64_t offset, std::span<uint8_t> buffer) {
  BITNET_TRY(step("pread"));
  const std::string& data = bytes_of(descriptor);
  if (offset >= data.size()) return size_t{0};
  const size_t left = data.size() - offset;
  const size_t count = left < buffer.size() ? left : buffer.size();
  std::memcpy(buffer.data(), data.data() + offset, count);
  return count;
}

Error write_at(int descriptor, uint64_t offset, std::span<const uint8_t> bytes) {
  BITNET_TRY(step("pwrite"));
  BITNET_TRY(grow(descriptor, offset + bytes.size(), "pwrite"));
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  record({Pending::Kind::kWrite, descriptor - kInodes, {}, offset, std::move(text)});
  return kNoError;
}

Error set_length(int descriptor, uint64_t bytes) {
  BITNET_TRY(step("ftruncate"));
  std::erase_if(world.pending, [&](const Pending& pending) {
    return pending.lost && pending.inode == descriptor - kInodes && pending.offset >= bytes;
  });
  record({Pending::Kind::kLength, descriptor - kInodes, {}, bytes, {}});
  return kNoError;
}

Error reserve_space(int descriptor, uint64_t bytes) {
  BITNET_TRY(step("fallocate"));
  BITNET_TRY(grow(descriptor, bytes, "fallocate"));
  record({Pending::Kind::kLength, descriptor - kInodes, {}, bytes, {}});
  return kNoError;
}

Error set_mode(int descriptor, uint32_t mode) {
  BITNET_TRY(step("fchmod"));
  record({Pending::Kind::kMode, descriptor - kInodes, {}, 0, {}, mode});
  return kNoError;
}

Error sync_file(int descriptor) {
  const Error error = step("fsync");
  std::vector<Pending> rest;
  for (Pending& pending : world.pending) {
    if (pending.inode == descriptor - kInodes && failed(error)) {
      pending.lost |= pending.kind == Pending::Kind::kWrite;
    }
    if (pending.inode == descriptor - kInodes && !failed(error) && !pending.lost) {
      pending.apply(&world.durable, 1);
    } else {
      rest.push_back(std::move(pending));
    }
  }
  world.pending = std::move(rest);
  return error;
}

Error lock_file(int) { return step("flock"); }

Error make_folder(int folder, const char* name, uint32_t mode) {
  BITNET_TRY(step(name));
  if (node_of(folder).entries.contains(name)) return fault(name, EEXIST);
  name_it(folder, name, new_inode(Node{true, mode, "", false, {}}));
  return kNoError;
}

Error rename_file(int folder, const char* from, const char* to) {
  BITNET_TRY(step(to));
  const auto& entries = node_of(folder).entries;
  const auto found = entries.find(from);
  if (found == entries.end()) return fault(to, ENOENT);
  const auto taken = entries.find(to);
  if (taken != entries.end() && world.now[taken->second].folder) return fault(to, ENOTEMPTY);
  if (taken != entries.end()) release_room(world.now[taken->second]);
  record({Pending::Kind::kNames, folder - kInodes, {{from, 0}, {to, found->second}}});
  return kNoError;
}

Error remove_file(int folder, const char* name, bool is_folder) {
  BITNET_TRY(step(name));
  const auto& entries = node_of(folder).entries;
  const auto found = entries.find(name);
  if (found == entries.end()) return fault(name, ENOENT);
  const Node& node = world.now[found->second];
  if (node.folder != is_folder) return fault(name, is_folder ? ENOTDIR : EISDIR);
  if (!node.entries.empty()) return fault(name, ENOTEMPTY);
  release_room(node);
  record({Pending::Kind::kNames, folder - kInodes, {{name, 0}}});
  return kNoError;
}

Error make_link(int folder, const char* name, const char* target) {
  BITNET_TRY(step(name));
  if (node_of(folder).entries.contains(name)) return fault(name, EEXIST);
  name_it(folder, name, new_inode(Node{false, 0777, target, true, {}}));
  return kNoError;
}

Error read_link(int folder, const char* name, std::span<char> target) {
  BITNET_TRY(step(name));
  const auto& entries = node_of(folder).entries;
  const auto found = entries.find(name);
  if (found == entries.end()) return fault(name, ENOENT);
  const Node& node = world.now[found->second];
  if (!node.link || node.data.size() >= target.size()) return fault(name, EINVAL);
  std::memcpy(target.data(), node.data.c_str(), node.data.size() + 1);
  return kNoError;
}

Error list_names(int folder, NameList* list) {
  BITNET_TRY(step("getdents64"));
  list->count = 0;
  list->left_out = 0;
  for (const auto& [name, inode] : node_of(folder).entries) {
    std::memcpy(list->names[list->count++], name.c_str(), name.size() + 1);
  }
  return kNoError;
}

Result<HostTime> host_time() {
  BITNET_TRY(step("clock"));
  HostTime time;
  std::snprintf(time.boot_id, sizeof time.boot_id, "%08u-0000-4000-8000-000000000000", world.boot);
  time.boot_s = world.clock_s;
  time.wall_s = 1700000000 + world.clock_s;
  return time;
}

Error prepare_streams() { return kNoError; }

Error check_writable(int) { return step("faccessat"); }

/// The stand-in answers with its seed and its input; a `late` one not once the link points to it.
Result<Finished> run_program(const Run& run) {
  BITNET_TRY(step("fork"));
  const std::string& program = bytes_of(run.executable);
  const int link = world.find("opt/bitnet");
  const std::string target = link == 0 ? "" : world.now[link].data;
  const bool runs = link != 0 && world.find("opt/" + target) == run.folder - kInodes;
  if (program.find("works") == std::string::npos) return Finished{127, 0};
  if (program.find("late") != std::string::npos && runs) return Finished{1, 0};
  const std::string answer = std::string(run.arguments[4]) + bytes_of(run.input);
  if (answer.size() > run.output.size()) return Finished{137, 0};
  std::memcpy(run.output.data(), answer.data(), answer.size());
  return Finished{0, answer.size()};
}

}  // namespace bitnet::platform
