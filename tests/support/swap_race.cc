// Runs a command again and again while a second process changes an installed program as fast as it
// can: another file by rename, other bytes in place, longer, and a link. Not part of the product.
// `swap-race FOLDER NAME GOOD BAD WANTED ROUNDS COMMAND…`: GOOD and BAD have the same size; counts
// runs whose output is WANTED, refusals (exit code 3, no output), and anything else.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

std::vector<char> load(const char* path) {
  std::vector<char> data;
  const int file = open(path, O_RDONLY);
  char buffer[65536];
  for (ssize_t got; (got = read(file, buffer, sizeof buffer)) > 0;) {
    data.insert(data.end(), buffer, buffer + got);
  }
  close(file);
  return data;
}

void store(const char* path, const std::vector<char>& data, int flags) {
  const int file = open(path, O_WRONLY | flags, 0755);
  if (file < 0) return;
  if (write(file, data.data(), data.size()) < 0) std::perror("write");
  fchmod(file, 0755);
  close(file);
}

[[noreturn]] void swap(const char* name, const char* good_path, const char* bad_path) {
  const std::vector<char> good = load(good_path);
  const std::vector<char> bad = load(bad_path);
  const std::string beside = "../beside";
  for (unsigned round = 0;; ++round) {
    store(beside.c_str(), round % 2 ? good : bad, O_CREAT | O_TRUNC);
    std::rename(beside.c_str(), name);       // another file under the name
    store(name, round % 2 ? bad : good, 0);  // the same file, other bytes
    store(name, bad, O_APPEND);              // longer
    unlink(name);
    if (symlink(bad_path, name) != 0) continue;  // a link to the other program
    store(beside.c_str(), good, O_CREAT | O_TRUNC);
    std::rename(beside.c_str(), name);  // and for a while, all is well
    usleep(round % 8 * 200);
  }
}

/// Runs the command once; returns its exit code and what it wrote.
int run_once(char** command, std::string* output) {
  int ends[2];
  if (pipe(ends) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
    execv(command[0], command);
    _exit(126);
  }
  close(ends[1]);
  output->clear();
  char buffer[4096];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;) output->append(buffer, got);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

int main(int count, char** values) {
  if (count < 8 || chdir(values[1]) != 0) return 2;
  const std::string wanted = std::string(values[5]) + "\n";
  const long rounds = std::strtol(values[6], nullptr, 10);
  const pid_t racer = fork();
  if (racer == 0) swap(values[2], values[3], values[4]);
  long ran = 0, stopped = 0, wrong = 0;
  std::string output;
  for (long round = 0; round < rounds && wrong == 0; ++round) {
    const int code = run_once(values + 7, &output);
    if (code == 0 && output == wanted) {
      ++ran;
    } else if (code == 3 && output.empty()) {
      ++stopped;
    } else {
      ++wrong;
      std::fprintf(stderr, "exit code %d, output: %s\n", code, output.c_str());
    }
  }
  kill(racer, SIGKILL);
  waitpid(racer, nullptr, 0);
  std::printf("%ld %ld %ld\n", ran, stopped, wrong);
}
