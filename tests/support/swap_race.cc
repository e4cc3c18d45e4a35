// Changes an installed program as fast as it can, in four ways, until it is killed: another file by
// rename, in place, longer, and a link. `race FOLDER NAME GOOD BAD` with two files of the same
// size. Not part of the product.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
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

}  // namespace

int main(int count, char** values) {
  if (count != 5 || chdir(values[1]) != 0) return 2;
  const char* name = values[2];
  const std::vector<char> good = load(values[3]);
  const std::vector<char> bad = load(values[4]);
  const std::string beside = "../beside";
  for (unsigned round = 0;; ++round) {
    store(beside.c_str(), round % 2 ? good : bad, O_CREAT | O_TRUNC);
    std::rename(beside.c_str(), name);       // another file under the name
    store(name, round % 2 ? bad : good, 0);  // the same file, other bytes
    store(name, bad, O_APPEND);              // longer
    unlink(name);
    if (symlink(values[4], name) != 0) continue;  // a link to the other program
    store(beside.c_str(), good, O_CREAT | O_TRUNC);
    std::rename(beside.c_str(), name);  // and for a while, all is well
    usleep(round % 8 * 200);
  }
}
