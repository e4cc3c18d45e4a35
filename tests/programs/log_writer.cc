// Writes records to a log ring and tells about it: the writer that tests watch, kill and crowd.
// SPDX-License-Identifier: Apache-2.0
//
//   log_writer PATH COUNT [wait]   writes COUNT answers; `wait` then reads standard input to its
//   end and writes one more record for each byte, the last an exit
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "runtime/log_ring.h"

using namespace bitnet;

int main(int argument_count, char** arguments) {
  static runtime::LogWriter log;
  if (const Error error = log.open(arguments[1]); failed(error)) {
    std::printf("%d %llu %llu\n", static_cast<int>(error.status),
                static_cast<unsigned long long>(error.where),
                static_cast<unsigned long long>(error.value));
    return 1;
  }
  const unsigned long count = std::strtoul(arguments[2], nullptr, 10);
  for (unsigned long i = 0; i < count; ++i) log.write(runtime::Event::kAnswer, i, 2 * i, 3 * i);
  std::printf("ready\n");
  std::fflush(stdout);
  char byte;
  while (argument_count > 3 && read(0, &byte, 1) == 1) {
    log.write(byte == '.' ? runtime::Event::kExit : runtime::Event::kPrompt, 0);
    std::printf("%c\n", byte);
    std::fflush(stdout);
  }
  return 0;
}
