// Stands in for bitnet-infer in tests of updates: answers with its seed and its input. What its
// config.yaml says may change that: `fails`, `hangs`, `talks` without end, `stays` after the end of
// its answer, is `late`: fails as soon as the link to what runs points to it, or `lacks` something
// of this host for as long as a file `lacking` lies beside the releases' folder; `later` so, only
// when it is also late.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static char config[4096];
static char input[65536];
static char target[256];
static char folder[4096];

static bool runs() {
  if (readlink("../../bitnet", target, sizeof target - 1) < 0) return false;
  return getcwd(folder, sizeof folder) != nullptr && strstr(folder, target) != nullptr;
}

int main(int count, char** values) {
  if (count != 6 || strcmp(values[1], "--config") != 0 || strcmp(values[5], "--no-log") != 0) {
    return 2;
  }
  const int file = open(values[2], O_RDONLY);
  if (file < 0 || read(file, config, sizeof config - 1) < 0) return 2;
  if (strstr(config, "fails") != nullptr) return 1;
  const bool now = strstr(config, "later") == nullptr || runs();
  if (strstr(config, "lacks") != nullptr && now && access("../../lacking", F_OK) == 0) return 5;
  if (strstr(config, "late") != nullptr && runs()) return 1;
  if (strstr(config, "hangs") != nullptr) pause();
  const ssize_t bytes = read(0, input, sizeof input);
  if (bytes < 0 || write(1, values[4], strlen(values[4])) < 0) return 1;
  do {
    if (write(1, input, static_cast<size_t>(bytes)) < 0) return 1;
  } while (strstr(config, "talks") != nullptr);
  if (strstr(config, "stays") != nullptr && close(1) == 0) pause();
  return 0;
}
