// The tokenizer over five sets of tables, which reach all of it together: any bytes have the ids
// that tokenizer_slow.h gives, those ids give the bytes back, and neither scratch nor ids are
// touched past what was asked for.
// SPDX-License-Identifier: Apache-2.0
//
// Input: u8 set of tables and what is asked, u16 bytes of the system message, the text.
#include "tokenizer/tokenizer.h"

#include "tokenizer/normalize.h"
#include "tokenizer/tables.h"
#include "tokenizer_slow.h"

// As fuzz_harnesses.py writes them: each defines kTokenizerTables.
namespace demo {
#include "demo.inc"
}  // namespace demo
namespace composed {
#include "composed.inc"
}  // namespace composed
namespace digits {
#include "digits.inc"
}  // namespace digits
namespace plain {
#include "plain.inc"
}  // namespace plain
namespace gaps {
#include "gaps.inc"
}  // namespace gaps

using namespace bitnet;
using namespace bitnet::tokenizer;

extern "C" uint64_t fuzz_accepted;
uint64_t fuzz_accepted = 0;

namespace {

using slow::Row;

constexpr const Tables* kTables[] = {&demo::kTokenizerTables, &composed::kTokenizerTables,
                                     &digits::kTokenizerTables, &plain::kTokenizerTables,
                                     &gaps::kTokenizerTables};
constexpr size_t kTablesCount = sizeof kTables / sizeof kTables[0];
constexpr size_t kSlowBytesMax = 512;  // merging with plain loops is quadratic
slow::Index indices[kTablesCount];

/// A block of exactly `count` elements, so that a sanitizer sees the first byte past it.
template <typename T>
class Block {
 public:
  explicit Block(size_t count) : count_(count) {
    must(posix_memalign(&data_, 64, count * sizeof(T)) == 0);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { std::free(data_); }
  std::span<T> all() const { return {static_cast<T*>(data_), count_}; }

 private:
  void* data_ = nullptr;
  size_t count_;
};

bool has_all_bytes(const Tables& tables) {
  bool all = true;
  for (size_t byte = 0; byte < 256; ++byte) all = all && tables.byte_ids[byte] != kIdNone;
  return all;
}

void must_be(std::span<const uint32_t> ids, const Row<uint32_t>& expected) {
  must(ids.size() == expected.count);
  for (size_t i = 0; i < ids.size(); ++i) must(ids[i] == expected[i]);
}

/// The ids' bytes, one after another, are this text.
void must_spell(const Tables& tables, std::span<const uint32_t> ids, Text text) {
  for (const uint32_t id : ids) {
    must(id < tables.vocab_size);
    const Text token = token_bytes(tables, id);
    must(token.size() <= text.size() && slow::equal(token, text.first(token.size())));
    text = text.subspan(token.size());
  }
  must(text.empty());
}

/// Encodes into `ids` with exactly what the functions for sizes ask for.
std::span<const uint32_t> encode_tightly(const Tables& tables, Text text,
                                         const Block<uint32_t>& ids) {
  const Block<uint8_t> scratch(encode_scratch_bytes(tables, text.size()));
  const size_t count = encode(tables, text, scratch.all(), ids.all());
  for (const uint32_t id : ids.all().first(count)) must(!token_is_special(tables, id));
  return ids.all().first(count);
}

/// Normalises with exactly what normalize.h asks for, which `encode` rounds up, and holds the
/// result against the slow one; what is normal stays so and has the same ids.
void check_normal_form(const Tables& tables, Text text, std::span<const uint32_t> ids) {
  const size_t most = text.size() * tables.nfc_bytes_factor;
  const Block<uint8_t> out(most);
  const Block<uint32_t> words(kNormalizeScratchWords * most);
  const Text normal = normalize(tables, text, out.all(), words.all());
  Row<uint8_t> expected;
  slow::normalize(tables, text, &expected);
  must(slow::equal(normal, {expected.data, expected.count}));
  const Block<uint8_t> again(normal.size() * tables.nfc_bytes_factor);
  const Block<uint32_t> more(kNormalizeScratchWords * again.all().size());
  must(slow::equal(normalize(tables, normal, again.all(), more.all()), normal));
  const Block<uint32_t> place(encode_ids_max(tables, normal.size()));
  const std::span<const uint32_t> same = encode_tightly(tables, normal, place);
  must(same.size() == ids.size());
  for (size_t i = 0; i < ids.size(); ++i) must(same[i] == ids[i]);
  if (has_all_bytes(tables)) must_spell(tables, ids, normal);
}

void check_text(const slow::Index& index, Text text) {
  const Tables& tables = *index.tables;
  const Block<uint32_t> place(encode_ids_max(tables, text.size()));
  const std::span<const uint32_t> ids = encode_tightly(tables, text, place);
  if (tables.nfc.index != nullptr) {
    check_normal_form(tables, text, ids);
  } else if (has_all_bytes(tables)) {
    must_spell(tables, ids, text);
  }
  if (text.size() > kSlowBytesMax) return;
  Row<uint32_t> expected;
  slow::encode(index, text, &expected);
  must_be(ids, expected);
}

/// What the messages become by the slow way, as ids and as bytes.
void check_conversation(const slow::Index& index, std::span<const ChatRow> rows, Text system,
                        Text user, std::span<const uint32_t> ids) {
  const Tables& tables = *index.tables;
  Row<uint8_t> spelled;
  const auto spell_token = [&](uint32_t id) {
    for (const uint8_t byte : index.token(id)) spelled.add(byte);
  };
  const auto spell_text = [&](Text text) {
    if (tables.nfc.index != nullptr) return slow::normalize(tables, text, &spelled);
    for (const uint8_t byte : text) spelled.add(byte);
  };
  slow::converse(tables, rows, system, user, spell_token, spell_text);
  if (has_all_bytes(tables)) must_spell(tables, ids, {spelled.data, spelled.count});
  if (system.size() + user.size() > kSlowBytesMax) return;
  Row<uint32_t> expected;
  const auto add_token = [&](uint32_t id) { expected.add(id); };
  const auto add_text = [&](Text text) { slow::encode(index, text, &expected); };
  slow::converse(tables, rows, system, user, add_token, add_text);
  must_be(ids, expected);
}

void check_prompt(const slow::Index& index, bool chat, Text system, Text user) {
  const Tables& tables = *index.tables;
  const size_t bytes = system.size() + user.size();
  const Block<uint8_t> scratch(encode_prompt_scratch_bytes(tables, bytes));
  const Block<uint32_t> ids(encode_prompt_ids_max(tables, bytes));
  const Result<size_t> count = encode_prompt(tables, chat, system, user, scratch.all(), ids.all());
  std::span<const ChatRow> rows{tables.chat_raw, tables.chat_raw_count};
  if (chat && system.empty()) rows = {tables.chat_user, tables.chat_user_count};
  if (chat && !system.empty()) rows = {tables.chat_system_user, tables.chat_system_user_count};
  must(count.ok() == !rows.empty());
  if (!count.ok()) return must(count.error().status == Status::kNoChatTemplate);
  fuzz_accepted += 1;
  check_conversation(index, rows, system, user, ids.all().first(count.value()));
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  if (bytes < 3) return 0;
  const size_t which = data[0] % kTablesCount;
  slow::Index& index = indices[which];
  if (index.tables == nullptr) slow::make_index(*kTables[which], &index);
  const Text text(data + 3, bytes - 3);
  const size_t wanted = data[1] + 256u * data[2];
  const size_t cut = wanted < text.size() ? wanted : text.size();
  const size_t asked = data[0] / kTablesCount % 3;
  if (asked == 0) {
    check_text(index, text);
    must(token_bytes(*index.tables, index.tables->vocab_size).empty());
    must(!token_is_special(*index.tables, index.tables->vocab_size));
    fuzz_accepted += 1;
  } else {
    check_prompt(index, asked == 1, text.first(cut), text.subspan(cut));
  }
  return 0;
}
