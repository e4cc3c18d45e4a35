// Runs every verb to every call, stops or fails it there, builds the disks that a power cut could
// leave, and lets the next run go on from each.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <sstream>

#include "fs_model.h"
#include "release/update.h"

namespace {

using namespace bitnet;
using model::World;
using model::world;
using Words = std::vector<std::string>;

struct Scenario {
  std::string name;
  std::vector<Words> before;
  Words verb;
  std::set<std::string> runs;  ///< what may run in between: old and new; "-" for nothing
  std::string end;             ///< what runs when the verb has been finished
  std::set<std::string> roots;
};

struct Tally {
  uint64_t calls = 0;
  uint64_t states = 0;
  uint64_t bad = 0;
  uint64_t seen = 0;  ///< states offered; only some of them are tried in a sample
};

std::map<std::string, std::map<std::string, std::string>> releases;  ///< name → file → content
release::Host host;
Error outcome;
Words verb;
Tally tally;
constexpr uint64_t kRoomForRecord = 4096;  ///< state and a line of the log, with something over
uint64_t every = 1;
uint64_t second_every = 1;  ///< the second crash follows every so many calls only
uint64_t phase = 0;

std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::map<std::string, bool> verified;  ///< what a signature check said about these bytes

}  // namespace

// The engine is compiled with this in place of bitnet_mldsa87_verify: the same few signatures are
// verified a million times.
#undef bitnet_mldsa87_verify
extern "C" bool bitnet_mldsa87_verify(const uint8_t*, const uint8_t*, const uint8_t*, size_t);
namespace bitnet::platform {
Result<int> copy_sealed(int, uint64_t, std::span<uint8_t>) { return Error{Status::kSystem}; }
}  // namespace bitnet::platform
extern "C" bool remembered_verify(const uint8_t* key, const uint8_t* signature,
                                  const uint8_t* message, size_t bytes) {
  std::string all(reinterpret_cast<const char*>(key), kMldsa87KeyBytes);
  all.append(reinterpret_cast<const char*>(signature), kMldsa87SignatureBytes);
  all.append(reinterpret_cast<const char*>(message), bytes);
  const auto found = verified.find(all);
  if (found != verified.end()) return found->second;
  return verified[all] = bitnet_mldsa87_verify(key, signature, message, bytes);
}

namespace {

// Verbs, as the programs call them.

void reset_host() {
  host.state = release::State{};
  host.root.version = 0;
  host.changed = false;
}

Error open_to_write() {
  reset_host();
  return release::open_host("/prefix", true, &host);
}

Error open_and_recover() {
  BITNET_TRY(open_to_write());
  return release::recover(&host);
}

Error run_verb() {
  const auto optional = [](size_t i) { return verb[i] == "-" ? nullptr : verb[i].c_str(); };
  BITNET_TRY(open_to_write());
  if (verb[0] == "apply") {
    const char* paths[8];
    for (size_t i = 3; i < verb.size(); ++i) paths[i - 3] = verb[i].c_str();
    return release::apply(&host, {paths, verb.size() - 3}, verb[1].c_str(), optional(2));
  }
  if (verb[0] == "rollback") {
    return release::roll_back(&host, std::strtoull(verb[1].c_str(), nullptr, 10), optional(2));
  }
  BITNET_TRY(release::recover(&host));
  Digest digest;
  release::Scanner({reinterpret_cast<const uint8_t*>(verb[2].data()), verb[2].size()}, "")
      .hex(digest);
  return release::install_root(&host, verb[1].c_str(), verb[2] == "-" ? nullptr : &digest);
}

void verb_job() { outcome = run_verb(); }
void recover_job() { outcome = open_and_recover(); }
void look_job() {
  reset_host();
  outcome = release::open_host("/prefix", false, &host);
  if (failed(outcome)) return;
  outcome = release::check_log(&host);
  if (!failed(outcome) && (!release::links_fit(host) || !host.state.trial.none())) {
    outcome = Error{Status::kReleaseFile, "links"};
  }
}

// What must be true of a disk.

std::string linked() {
  const int link = world.find("opt/bitnet");
  const std::string target = link == 0 ? "bitnet.d/-" : world.now[link].data;
  return target.substr(std::strlen("bitnet.d/"));
}

std::string judge_link(const Scenario& scenario) {
  const std::string name = linked();
  if (!scenario.runs.contains(name)) return "runs neither old nor new: " + name;
  if (name == "-") return "";
  const int folder = world.find("opt/bitnet.d/" + name);
  if (folder == 0 || world.now[folder].mode != 0555) return "folder of what runs is not whole";
  const auto& entries = world.now[folder].entries;
  const auto& files = releases[name];
  if (entries.size() != files.size()) return "what runs has too few or too many files";
  for (const auto& [file, content] : files) {
    const auto entry = entries.find(file);
    if (entry == entries.end()) return "what runs lacks a file: " + file;
    const model::Node& node = world.now[entry->second];
    const uint32_t mode = file == "bitnet-infer" ? 0555 : 0444;
    if (node.data != content || node.mode != mode) return "file of what runs is wrong: " + file;
  }
  return "";
}

std::string judge_root(const Scenario& scenario) {
  const int file = world.find("etc/bitnet/trust.root");
  const std::string found = file == 0 ? "-" : world.now[file].data;
  for (const std::string& root : scenario.roots) {
    if ((root == "-" ? root : world.media[root]) == found) return "";
  }
  return "root is neither old nor new";
}

std::string judge_record(const Scenario& scenario, bool began) {
  model::run({}, look_job);
  if (outcome.status == Status::kStateMissing && !began) return "";
  if (failed(outcome)) return std::string("record does not fit: ") + outcome.subject;
  const std::string current =
      host.state.current.none() ? "-" : std::string(host.state.current.text);
  return current == linked() ? judge_root(scenario) : "record and link differ";
}

/// From the disk in `world`: old or new; after recovery too; and the next run finishes the verb.
std::string judge(const Scenario& scenario) {
  if (std::string wrong = judge_link(scenario); !wrong.empty()) return wrong + " (raw)";
  model::run({}, recover_job);
  if (failed(outcome)) {
    return "recovery fails: " + std::to_string(static_cast<int>(outcome.status)) + " " +
           outcome.subject;
  }
  world.room = UINT64_MAX;
  if (std::string wrong = judge_link(scenario); !wrong.empty()) return wrong + " (recovered)";
  if (std::string wrong = judge_record(scenario, false); !wrong.empty()) return wrong;
  verb = scenario.verb;
  // A rollback that recovery has finished is not asked for twice: it would go back further.
  const bool again = verb[0] != "rollback" || linked() != scenario.end;
  if (again) model::run({}, verb_job);
  const Status told = again ? outcome.status : Status::kOk;
  if (linked() != scenario.end) {
    return "next run does not finish: " + std::to_string(static_cast<int>(outcome.status)) + " " +
           outcome.subject;
  }
  if (std::string wrong = judge_link(scenario); !wrong.empty()) return wrong + " (finished)";
  if (std::string wrong = judge_record(scenario, true); !wrong.empty()) return wrong;
  const bool refused = told != Status::kOk && told != Status::kSelftest;
  if (refused && host.state.refused.status != static_cast<uint64_t>(told)) {
    return "refusal is not recorded: " + std::to_string(static_cast<int>(told));
  }
  const int folder = world.find("opt/bitnet.d");
  for (const auto& [name, inode] : world.now[folder].entries) {
    const bool known = name == "state" || name == "log" || name == "lock" ||
                       releases.contains(name) || name == ".state-new";
    if (!known) return "left lying about: " + name;
  }
  return "";
}

/// Counts one state and tries it, unless a sample leaves it out.
void try_state(const Scenario& scenario, const World& state, const std::string& what,
               bool always = false) {
  if (!always && tally.seen++ % every != phase) return;
  const World kept = world;
  world = state;
  tally.states += 1;
  const std::string wrong = judge(scenario);
  if (!wrong.empty()) {
    if (tally.bad++ < 10) {
      std::fprintf(stderr, "bad: %s: %s: %s\n", scenario.name.c_str(), what.c_str(), wrong.c_str());
    }
  }
  world = kept;
}

/// All disks that a power cut now could leave, or `limit` of them: none, all, each alone, each
/// missing, and random ones.
void for_cuts(const World& from, size_t limit, std::mt19937_64& random,
              const std::function<void(const World&)>& visit) {
  const size_t count = from.pending.size();
  uint64_t total = 1;
  for (const auto& pending : from.pending) {
    total = total > limit ? total : total * pending.choices();
  }
  std::vector<unsigned> choices(count, 0);
  if (total <= limit) {
    for (uint64_t code = 0; code < total; ++code) {
      uint64_t rest = code;
      for (size_t i = 0; i < count; ++i) {
        choices[i] = static_cast<unsigned>(rest % from.pending[i].choices());
        rest /= from.pending[i].choices();
      }
      visit(from.after_cut(choices));
    }
    return;
  }
  std::set<std::vector<unsigned>> all{choices, std::vector<unsigned>(count, 1)};
  for (size_t i = 0; i < count && all.size() < limit; ++i) {
    std::vector<unsigned> alone(count, 0), missing(count, 1);
    alone[i] = 1;
    missing[i] = 0;
    all.insert(alone);
    all.insert(missing);
  }
  while (all.size() < limit) {
    for (size_t i = 0; i < count; ++i) choices[i] = random() % from.pending[i].choices();
    all.insert(choices);
  }
  for (const auto& each : all) visit(from.after_cut(each));
}

/// Bytes that an unpacking which did not end holds.
uint64_t bytes_of_incoming(const World& state) {
  const int folder = state.find("opt/bitnet.d/.incoming");
  if (folder == 0) return 0;
  uint64_t bytes = 0;
  for (const auto& [name, inode] : state.now.at(folder).entries) {
    bytes += state.now.at(inode).data.size();
  }
  return bytes;
}

void run_scenario(const Scenario& scenario, uint64_t limit) {
  std::mt19937_64 random(20261125);
  world.now = World().now;
  world.sync_all();
  for (const Words& words : scenario.before) {
    if (words[0] == "wait") {
      world.clock_s += std::strtoull(words[1].c_str(), nullptr, 10);
      continue;
    }
    verb = words;
    model::run({}, verb_job);
    if (failed(outcome)) {
      std::fprintf(stderr, "setup of %s fails: %d %s\n", scenario.name.c_str(),
                   static_cast<int>(outcome.status), outcome.subject);
      std::exit(1);
    }
  }
  world.sync_all();
  const World start = world;
  const auto cut = [&](const World& from, uint64_t most, const std::string& what) {
    for_cuts(from, most, random, [&](const World& after) { try_state(scenario, after, what); });
  };
  bool whole = false;
  for (uint64_t call = 1; !whole; ++call) {
    const std::string at = "call " + std::to_string(call);
    // 1. Killed before this call, which is after the one before.
    world = start;
    verb = scenario.verb;
    whole = model::run({call, 0, 0, 0}, verb_job);
    const World killed = world;
    try_state(scenario, killed, at + " killed");
    cut(killed, limit, at + " power cut");
    // No byte is left when the host comes back; what the unpacking has taken is enough for it.
    World full = killed.after_cut(std::vector<unsigned>(killed.pending.size(), 1));
    full.room = 0;
    if (bytes_of_incoming(full) > kRoomForRecord) {
      try_state(scenario, full, at + " power cut, disk full", true);
    }
    tally.calls = call - 1;
    if (whole) break;
    // 2. The call fails.
    for (const int reason : {EIO, ENOSPC, EINTR, EDQUOT}) {
      world = start;
      verb = scenario.verb;
      model::run({0, call, reason, 0}, verb_job);
      const World failed_run = world;
      const std::string name = at + " errno " + std::to_string(reason);
      try_state(scenario, failed_run, name);
      cut(failed_run, limit / 4, name + " then power cut");
    }
    if (call % second_every != 0) continue;
    // 3. Killed or cut, and the recovery from that is killed or cut again, or fails.
    const std::vector<World> disks{
        killed, killed.after_cut(std::vector<unsigned>(killed.pending.size())),
        killed.after_cut(std::vector<unsigned>(killed.pending.size(), 1))};
    for (const World& disk : disks) {
      bool done = false;
      for (uint64_t second = 1; !done; ++second) {
        world = disk;
        done = model::run({second, 0, 0, 0}, recover_job);
        const std::string name = at + " then recovery call " + std::to_string(second);
        const World twice = world;
        try_state(scenario, twice, name + " killed");
        cut(twice, 4, name + " power cut");
        const int reason = second % 2 != 0 ? EIO : ENOSPC;
        world = disk;
        model::run({0, second, reason, 0}, recover_job);
        try_state(scenario, World(world), name + " errno " + std::to_string(reason));
      }
      // The disk fills while it recovers; when somebody has made room, all is well again.
      for (const uint64_t room : {uint64_t{0}, kRoomForRecord / 2, kRoomForRecord}) {
        world = disk;
        world.room = room;
        model::run({}, recover_job);
        world.room = UINT64_MAX;
        try_state(scenario, World(world), at + " then recovery in " + std::to_string(room));
      }
    }
  }
}

std::vector<Scenario> load(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder / "media")) {
    world.media["/media/" + entry.path().filename().string()] = slurp(entry.path());
  }
  for (const auto& release : std::filesystem::directory_iterator(folder / "releases")) {
    for (const auto& entry : std::filesystem::directory_iterator(release.path())) {
      releases[release.path().filename()][entry.path().filename()] = slurp(entry.path());
    }
  }
  std::vector<Scenario> scenarios;
  std::ifstream file(folder / "scenarios");
  for (std::string line; std::getline(file, line);) {
    std::istringstream text(line);
    std::string key;
    text >> key;
    Words words;
    for (std::string word; text >> word;) words.push_back(word);
    if (key == "scenario") scenarios.push_back({words[0], {}, {}, {}, {}, {}});
    Scenario& last = scenarios.back();
    if (key == "before") last.before.push_back(words);
    if (key == "verb") last.verb = words;
    if (key == "runs") last.runs = {words.begin(), words.end()};
    if (key == "end") last.end = words[0];
    if (key == "roots") last.roots = {words.begin(), words.end()};
  }
  return scenarios;
}

}  // namespace

/// powerloss FOLDER SCENARIO LIMIT SECOND EVERY PHASE: prints calls, states and bad states.
int main(int count, char** values) {
  if (count != 7) return 2;
  const uint64_t limit = std::strtoull(values[3], nullptr, 10);
  second_every = std::strtoull(values[4], nullptr, 10);
  every = std::strtoull(values[5], nullptr, 10);
  phase = std::strtoull(values[6], nullptr, 10);
  for (const Scenario& scenario : load(values[1])) {
    if (scenario.name != values[2]) continue;
    run_scenario(scenario, limit);
    std::printf("%llu %llu %llu\n", static_cast<unsigned long long>(tally.calls),
                static_cast<unsigned long long>(tally.states),
                static_cast<unsigned long long>(tally.bad));
    return tally.bad == 0 ? 0 : 1;
  }
  return 2;
}
