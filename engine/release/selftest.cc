// SPDX-License-Identifier: Apache-2.0
#include "release/selftest.h"

#include "release/text.h"

namespace bitnet::release {
namespace {

#include "release/known_answers.inc"

bool digest_known(void (*digest_of)(const uint8_t*, size_t, uint8_t*), const char* known) {
  Digest expected;
  Digest digest;
  const Text message = text_of("abc");
  digest_of(message.data(), message.size(), digest.data());
  return decode_base64(text_of(known), expected) && digest == expected;
}

template <size_t kKeyBytes, size_t kSignatureBytes>
bool signature_known(bool (*verify)(const uint8_t*, const uint8_t*, const uint8_t*, size_t),
                     const char* key_text, const char* signature_text, const char* message_text) {
  std::array<uint8_t, kKeyBytes> key;
  std::array<uint8_t, kSignatureBytes> signature;
  const Text message = text_of(message_text);
  if (!decode_base64(text_of(key_text), key)) return false;
  if (!decode_base64(text_of(signature_text), signature)) return false;
  if (!verify(key.data(), signature.data(), message.data(), message.size())) return false;
  signature[0] ^= 1;
  return !verify(key.data(), signature.data(), message.data(), message.size());
}

}  // namespace

Error run_selftest() {
  const char* wrong = nullptr;
  if (!digest_known(bitnet_sha384, kAbcSha384)) wrong = "SHA-384";
  if (!digest_known(bitnet_sha3_384, kAbcSha3)) wrong = "SHA3-384";
  if (!signature_known<kEd25519KeyBytes, kEd25519SignatureBytes>(
          bitnet_ed25519_verify, kEd25519Key, kEd25519Signature, kEd25519Message)) {
    wrong = "Ed25519";
  }
  if (!signature_known<kMldsa87KeyBytes, kMldsa87SignatureBytes>(
          bitnet_mldsa87_verify, kMldsa87Key, kMldsa87Signature, kMldsa87Message)) {
    wrong = "ML-DSA-87";
  }
  return wrong == nullptr ? kNoError : Error{Status::kSelftestFailed, wrong};
}

}  // namespace bitnet::release
