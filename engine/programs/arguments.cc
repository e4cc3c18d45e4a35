// SPDX-License-Identifier: Apache-2.0
#include "programs/arguments.h"

#include <cstring>

#include "base/version.h"
#include "platform/os.h"
#include "programs/report.h"

namespace bitnet::programs {
namespace {

bool parse_number(const char* words, const Option& option) {
  Text rest = text_of(words);
  return take_number(&rest, 10, option.number) && rest.empty() &&
         *option.number >= option.number_min && *option.number <= option.number_max;
}

bool is_option(const char* name, const char* argument) {
  const size_t length = std::strlen(name);
  const bool joined = name[length - 1] == '=';
  return joined ? std::strncmp(name, argument, length) == 0 : std::strcmp(name, argument) == 0;
}

[[noreturn]] void end_with(Writer& line) {
  print(platform::kStdout, line);
  platform::exit_process(report(kNoError));
}

}  // namespace

Error parse_arguments(int count, char** values, std::span<Option> options, const char* help,
                      const char* claims) {
  for (int i = 1; i < count; ++i) {
    const char* name = values[i];
    if (std::strcmp(name, "--help") == 0) end_with(Line().text(help));
    if (std::strcmp(name, "--version") == 0)
      end_with(Line().text(kVersion).text("\n").text(claims));
    const bool alone = name[0] != '-';
    Option* option = nullptr;
    for (Option& each : options) {
      if (alone ? each.name[0] != '-' : is_option(each.name, name)) option = &each;
    }
    if (option == nullptr) return Error{Status::kUsage, name};
    if (option->words != nullptr) {
      const size_t before = option->words->size();
      values[1 + before] = values[i];
      *option->words = {values + 1, before + 1};
      continue;
    }
    const size_t length = std::strlen(option->name);
    const bool joined = option->name[length - 1] == '=';
    const bool bare = alone || joined || option->flag != nullptr;
    if (option->given || (!bare && i + 1 == count)) return Error{Status::kOptionValue, name};
    option->given = true;
    const char* value = joined ? name + length : bare ? name : values[++i];
    if (option->flag != nullptr) *option->flag = true;
    if (option->text != nullptr) *option->text = value;
    if (option->number != nullptr && !parse_number(value, *option)) {
      return Error{Status::kOptionValue, name};
    }
  }
  for (const Option& option : options) {
    if (option.required && !option.given) return Error{Status::kOptionMissing, option.name};
  }
  return kNoError;
}

}  // namespace bitnet::programs
