// Process 1 of a small guest: runs the jobs of /jobs one after the other and tells how each ended.
// SPDX-License-Identifier: Apache-2.0
//
// /jobs: words that end with a zero byte; an empty word ends a job. On the console, a line for
// each:
//   @ NUMBER SIGNAL CODE OUTPUT-AS-HEX
// Standard input of a job is /input where the first word is "<", else /dev/null. Then power off.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace {

constexpr int kWordsMax = 64;
char jobs[1 << 20];
char output[1 << 16];

[[noreturn]] void become(char** words, int to) {
  const char* input = "/dev/null";
  if (std::strcmp(words[0], "<") == 0) {
    input = "/input";
    ++words;
  }
  const int from = open(input, O_RDONLY);
  const int nowhere = open("/dev/null", O_WRONLY);
  if (from < 0 || nowhere < 0) _exit(126);
  dup2(from, 0);
  dup2(to, 1);
  dup2(nowhere, 2);
  for (int fd = 3; fd < 16; ++fd) close(fd);
  execv(words[0], words);
  _exit(127);
}

void run(int number, char** words) {
  int ends[2];
  if (pipe(ends) != 0) return;
  const pid_t child = fork();
  if (child == 0) become(words, ends[1]);
  close(ends[1]);
  size_t bytes = 0;
  for (ssize_t got = 1; got > 0 && bytes < sizeof output; bytes += static_cast<size_t>(got)) {
    got = read(ends[0], output + bytes, sizeof output - bytes);
    if (got < 0) break;
  }
  close(ends[0]);
  int state = 0;
  waitpid(child, &state, 0);
  std::printf("@ %d %d %d ", number, WIFSIGNALED(state) ? WTERMSIG(state) : 0,
              WIFEXITED(state) ? WEXITSTATUS(state) : 0);
  for (size_t i = 0; i < bytes; ++i) std::printf("%02x", static_cast<unsigned char>(output[i]));
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main() {
  mkdir("/proc", 0755);
  mkdir("/dev", 0755);
  mkdir("/tmp", 01777);
  mount("proc", "/proc", "proc", 0, nullptr);
  mount("devtmpfs", "/dev", "devtmpfs", 0, nullptr);
  mkdir("/dev/shm", 01777);
  mount("tmpfs", "/dev/shm", "tmpfs", 0, nullptr);
  mount("tmpfs", "/tmp", "tmpfs", 0, nullptr);
  const int console = open("/dev/console", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) dup2(console, fd);
  const int file = open("/jobs", O_RDONLY);
  const ssize_t bytes = read(file, jobs, sizeof jobs);
  char* words[kWordsMax + 1];
  int count = 0, number = 0;
  for (char* word = jobs; word < jobs + bytes; word += std::strlen(word) + 1) {
    if (*word != '\0' && count < kWordsMax) {
      words[count++] = word;
      continue;
    }
    words[count] = nullptr;
    run(number++, words);
    count = 0;
  }
  std::printf("@ end\n");
  std::fflush(stdout);
  sync();
  reboot(RB_POWER_OFF);
}
