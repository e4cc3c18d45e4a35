// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace bitnet {

/// The product's version; a test holds it against pyproject.toml.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace bitnet
