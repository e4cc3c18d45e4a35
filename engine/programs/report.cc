// SPDX-License-Identifier: Apache-2.0
#include "programs/report.h"

#include "platform/os.h"

namespace bitnet::programs {

static Error output_error;

bool print(int descriptor, Writer& line) {
  const Error error = line.cut() ? Error{Status::kWriteFailed, "a line that is too long"}
                                 : platform::write_all(descriptor, line.written());
  if (failed(error)) output_error = error;
  line.clear();
  return !failed(error);
}

StatusText status_text(Status status) {
  switch (status) {
#define BITNET_STATUS(name, value, exit_code, text, where, found, limit, hint) \
  case Status::name:                                                           \
    return {#name, exit_code, text, where, found, limit, hint};
#include "base/status.def"
#undef BITNET_STATUS
  }
  return {"", 70, "internal error", "", "", "", ""};
}

int report(const Error& given) {
  const Error& error = failed(given) ? given : output_error;
  if (!failed(error)) return 0;
  const StatusText status = status_text(error.status);
  Line line;
  line.text("error: ").text(status.text);
  if (error.subject[0] != 0) {
    const Text subject = text_of(error.subject);
    line.text(": `").escaped(subject.first(subject.size() < 256 ? subject.size() : 256)).text("`");
  }
  const char* labels[] = {status.where, status.found, status.limit};
  const uint64_t numbers[] = {error.where, error.value, error.limit};
  const char* separator = "\n  ";
  for (int i = 0; i < 3; ++i) {
    if (labels[i][0] == 0) continue;
    line.text(separator).text(labels[i]).text(" ").number(numbers[i]);
    separator = ", ";
  }
  line.text("\n");
  if (status.hint[0] != 0) line.text("\nhint: ").text(status.hint).text("\n");
  print(platform::kStderr, line);
  return status.exit_code;
}

}  // namespace bitnet::programs
