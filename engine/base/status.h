// Expected failures as values that the compiler does not let a caller drop.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

namespace bitnet {

/// Every way in which a program inside the gap can refuse. The table in `docs/errors.md` and
/// `src/bitnet/errors.py` name the same codes; a test compares the three.
enum class [[nodiscard]] Status : uint8_t {
#define BITNET_STATUS(name, value, ...) name = value,
#include "base/status.def"
#undef BITNET_STATUS
};

/// What failed, where, and the limit that was crossed. `subject` points to static text or to the
/// command line; it is never text from a model file.
struct [[nodiscard]] Error {
  Status status = Status::kOk;
  const char* subject = "";
  uint64_t where = 0;  ///< byte offset, line number, token index … as the status says
  uint64_t value = 0;  ///< what was found
  uint64_t limit = 0;  ///< what is allowed
};

/// Either a value or an Error. T is trivially copyable.
template <typename T>
class [[nodiscard]] Result {
 public:
  constexpr Result(const T& value) : value_(value) {}      // NOLINT: implicit by design
  constexpr Result(const Error& error) : error_(error) {}  // NOLINT: implicit by design
  constexpr bool ok() const { return error_.status == Status::kOk; }
  constexpr const T& value() const { return value_; }
  constexpr const Error& error() const { return error_; }

 private:
  static_assert(std::is_trivially_copyable_v<T>);
  T value_{};
  Error error_{};
};

inline constexpr Error kNoError{};
constexpr bool failed(const Error& error) { return error.status != Status::kOk; }

/// Goes on only without an error; else returns it.
#define BITNET_TRY(call)                                                           \
  do {                                                                             \
    if (const ::bitnet::Error try_error_ = (call); ::bitnet::failed(try_error_)) { \
      return try_error_;                                                           \
    }                                                                              \
  } while (false)

/// The value of a Result; without one the function returns its error.
#define BITNET_VALUE(call)               \
  __extension__({                        \
    const auto value_or_error_ = (call); \
    if (!value_or_error_.ok()) {         \
      return value_or_error_.error();    \
    }                                    \
    value_or_error_.value();             \
  })

}  // namespace bitnet
