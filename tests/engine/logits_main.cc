// Test program: token ids on standard input, raw logits on standard output.
// SPDX-License-Identifier: Apache-2.0
//
// usage: logits MODEL ISA THREADS CHUNK CONTEXT KV_CACHE
// KV_CACHE is the number of a format::KvCacheKind: 0 f32, 1 f16, 2 int8.
// Input: for each sequence a u32 count and that many u32 ids. Output: count × vocab_size float32.
// A sequence starts with an empty cache and goes through in chunks of CHUNK tokens.
#include <cstdlib>
#include <cstring>

#include "model/session.h"
#include "platform/os.h"
#include "programs/report.h"

namespace {

using namespace bitnet;

model::Session session;
const float* state;  ///< of the token whose logits are computed

uint32_t number(const char* text) { return static_cast<uint32_t>(std::strtoul(text, nullptr, 10)); }

int run(std::span<uint32_t> ids, uint32_t chunk) {
  for (uint32_t done = 0; done < ids.size();) {
    const uint32_t left = static_cast<uint32_t>(ids.size()) - done;
    const uint32_t count = left < chunk ? left : chunk;
    model::Transformer& transformer = session.transformer();
    const Error error =
        transformer.forward(ids.subspan(done, count), done, model::LogitsMode::kNone);
    if (failed(error)) return programs::report(error);
    for (uint32_t i = 0; i < count; ++i) {
      state = transformer.state(i);
      session.team().run(
          [](void*, uint32_t t) { session.transformer().head().compute(state, t, true); }, nullptr);
      const auto* bytes = reinterpret_cast<const uint8_t*>(transformer.head().logits().data());
      const Error written =
          platform::write_all(platform::kStdout, {bytes, size_t{session.header().vocab_size} * 4});
      if (failed(written)) return programs::report(written);
    }
    done += count;
  }
  return 0;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 7) return 2;
  const Result<std::span<const uint8_t>> file = platform::map_file(arguments[1]);
  if (!file.ok()) return programs::report(file.error());
  const uint32_t chunk = number(arguments[4]);
  const auto* isa = reinterpret_cast<const uint8_t*>(arguments[2]);
  const model::SessionOptions options{number(arguments[5]),
                                      chunk,
                                      number(arguments[3]),
                                      {isa, std::strlen(arguments[2])},
                                      static_cast<format::KvCacheKind>(number(arguments[6]))};
  const Error error = session.open(file.value(), options, {[](void*, Arena&, bool) {}, nullptr});
  if (failed(error)) return programs::report(error);
  static uint32_t ids[65536];
  for (;;) {
    uint32_t count = 0;
    auto* count_bytes = reinterpret_cast<uint8_t*>(&count);
    const Result<size_t> got = platform::read_all(platform::kStdin, {count_bytes, 4});
    if (!got.ok()) return programs::report(got.error());
    if (got.value() != 4) return 0;
    if (count > sizeof ids / 4) return 2;
    const Result<size_t> body =
        platform::read_all(platform::kStdin, {reinterpret_cast<uint8_t*>(ids), size_t{count} * 4});
    if (!body.ok() || body.value() != size_t{count} * 4) return 2;
    if (const int code = run(std::span(ids, count), chunk); code != 0) return code;
  }
}
