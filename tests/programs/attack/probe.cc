// A process that is locked down as bitnet-infer is, with its threads running, and then attacks from
// inside: `probe ACCEPT THREAD ACTION [ARGUMENT…]`. It writes "locked" once it is, then does the
// one thing that it is told on thread THREAD, then writes "returned N" if it still can.
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "platform/os.h"
#include "runtime/lockdown.h"

namespace {

using namespace bitnet;

constexpr size_t kArenaBytes = 65536;
constexpr uint32_t kThreads = 3;
// Stands for weights that lie in the executable: pages of its own in the read-only segment.
alignas(4096) constexpr uint8_t kWeights[8192] = {1};

runtime::ThreadTeam team;
runtime::Lockdown lockdown;
std::span<uint8_t> arena;
int argument_count;
char** arguments;
uint32_t acting_thread;

void say(const char* words) {
  (void)failed(platform::write_all(platform::kStdout,
                                   {reinterpret_cast<const uint8_t*>(words), strlen(words)}));
}

void say_number(long value) {
  char text[32] = "returned ";
  char digits[24];
  size_t count = 0;
  unsigned long rest =
      value < 0 ? -static_cast<unsigned long>(value) : static_cast<unsigned long>(value);
  do {
    digits[count++] = static_cast<char>('0' + rest % 10);
    rest /= 10;
  } while (rest != 0);
  size_t at = strlen(text);
  if (value < 0) text[at++] = '-';
  while (count > 0) text[at++] = digits[--count];
  text[at] = '\n';
  say(text);
}

/// A number, or a place: @arena, @weights, @code, @stack, or text itself after a colon.
long value_of(const char* word) {
  if (word[0] == ':') return reinterpret_cast<long>(word + 1);
  if (strcmp(word, "@arena") == 0) return reinterpret_cast<long>(arena.data());
  if (strcmp(word, "@weights") == 0) return reinterpret_cast<long>(kWeights);
  if (strcmp(word, "@code") == 0) return reinterpret_cast<long>(&value_of) & ~4095l;
  if (strcmp(word, "@stack") == 0)
    return reinterpret_cast<long>(__builtin_frame_address(0)) & ~4095l;
  return static_cast<long>(strtoull(word, nullptr, 0));
}

/// The system call itself: the C library's function would take some numbers for its own business.
long call(const long (&a)[7]) {
  long result;
#if defined(__x86_64__)
  register long r10 __asm__("r10") = a[4];
  register long r8 __asm__("r8") = a[5];
  register long r9 __asm__("r9") = a[6];
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(a[0]), "D"(a[1]), "S"(a[2]), "d"(a[3]), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
#else
  register long x8 __asm__("x8") = a[0];
  register long x0 __asm__("x0") = a[1];
  register long x1 __asm__("x1") = a[2];
  register long x2 __asm__("x2") = a[3];
  register long x3 __asm__("x3") = a[4];
  register long x4 __asm__("x4") = a[5];
  register long x5 __asm__("x5") = a[6];
  __asm__ volatile("svc 0"
                   : "+r"(x0)
                   : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                   : "memory");
  result = x0;
#endif
  return result;
}

void run_at(uint8_t* place) {
#if defined(__x86_64__)
  place[0] = 0xc3;
#else
  const uint32_t ret = 0xd65f03c0;
  memcpy(place, &ret, sizeof ret);
#endif
  __builtin___clear_cache(reinterpret_cast<char*>(place), reinterpret_cast<char*>(place) + 4);
  reinterpret_cast<void (*)()>(place)();
}

void act() {
  const char* action = arguments[0];
  long values[7] = {};
  for (int i = 1; i < argument_count && i <= 7; ++i) values[i - 1] = value_of(arguments[i]);
  auto* place = reinterpret_cast<uint8_t*>(values[0]);
  if (strcmp(action, "call") == 0) say_number(call(values));
  if (strcmp(action, "layer") == 0) {
    const runtime::LayerState& layer = lockdown.layer(static_cast<uint32_t>(values[0]));
    say_number(layer.on() ? static_cast<long>(layer.detail) : -1);
  }
  if (strcmp(action, "trap") == 0) ENGINE_CHECK(argument_count == 0);
  if (strcmp(action, "write") == 0) *const_cast<volatile uint8_t*>(place) = 7;
  if (strcmp(action, "execute") == 0) run_at(place);
  if (strcmp(action, "wait") == 0) say_number(read(platform::kStdin, arena.data(), arena.size()));
#if defined(__x86_64__)
  if (strcmp(action, "int80") == 0) {
    long result = values[0];
    __asm__ volatile("int $0x80" : "+a"(result) : "b"(values[1]) : "memory");
    say_number(result);
  }
#endif
}

void on_thread(void*, uint32_t index) {
  if (index == acting_thread) act();
}

}  // namespace

int main(int count, char** values) {
  if (count < 4) return 2;
  lockdown = runtime::Lockdown(static_cast<uint32_t>(strtoul(values[1], nullptr, 0)));
  acting_thread = static_cast<uint32_t>(strtoul(values[2], nullptr, 0));
  arguments = values + 3;
  argument_count = count - 3;
  if (failed(lockdown.before_threads())) return 3;
  const Result<std::span<uint8_t>> memory = platform::reserve_memory(kArenaBytes, "arena", false);
  if (!memory.ok()) return 4;
  arena = memory.value();
  if (failed(team.start(kThreads))) return 5;
  if (failed(
          lockdown.after_threads({kWeights, kWeights, arena, {}, format::LockScope::kArena}, team)))
    return 6;
  say("locked\n");
  team.run(on_thread, nullptr);
  say("still running\n");
  platform::exit_process(0);
}
