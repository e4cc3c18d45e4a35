"""Every fuzz harness: what is linked into it, and what it starts from."""

import base64
import functools
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import zstandard

from bitnet.seal.sources import build_root
from bitnet.tokenizer import compile_tokenizer, emit_cpp
from tests.support.engine import DEMO_TOKENIZER, small_model, small_model_parts
from tests.support.fuzzing import Harness
from tests.support.infer import demo_config
from tests.support.publisher import (
    Release,
    Signer,
    container,
    rollback_order,
    tar_header,
)

__all__ = ["HARNESSES"]

_CRYPTO = ("base", "crypto")
_RELEASE = ("base", "crypto/crypto.zig", "release/text.cc", "release/trust.cc")


@functools.cache
def demo_tables() -> Path:
    """Returns a folder with the demo's tokenizer.inc."""
    text = emit_cpp(compile_tokenizer(DEMO_TOKENIZER))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = build_root() / "tests" / "tokenizer" / digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.inc").write_text(text, encoding="utf-8")
    return folder


def model_recipe(model: bytes, mode: int, *, pages: int = 0, patches: bytes = b"") -> bytes:
    """Returns an input of model.cc with the header and the table of a model."""
    entries = int.from_bytes(model[120:124], "little")
    return bytes([mode, pages, 0, entries]) + model[: 512 + 64 * entries] + patches


def patch(page: int, offset: int, value: int, *, late: bool = False) -> bytes:
    return struct.pack("<HHI", page | late << 15, offset, value)


def model_seeds() -> Iterator[bytes]:
    """Every flag, kind and length of lists; all fields written for it, or nothing but digests."""
    everything, digests, leaves = 63, 4 | 8 | 32, 64
    for flags in (0, 1, 2, 4, 7):
        for kind in (3, 4):
            yield model_recipe(small_model_parts(flags=flags, kind=kind), everything)
    other = {"layer_count": 2, "bos_id": 0xFFFFFFFF, "eos_ids": tuple(range(8))}
    large = small_model_parts(flags=6, **other)
    # Head of another kind than the embedding.
    mixed = large[:76] + (4).to_bytes(4, "little") + large[80:]
    yield model_recipe(mixed, everything | leaves)
    yield model_recipe(large, everything | leaves, patches=patch(1, 8, 7))
    yield model_recipe(large, digests | leaves, patches=patch(20, 0, 7, late=True))
    yield model_recipe(large, digests | leaves, patches=patch(3, 0, 7, late=True))
    yield model_recipe(large, 4 | 8, pages=(len(large) - 4096) // 4096)
    yield model_recipe(small_model(), digests, patches=patch(0, 512 + 20, 1))
    # Values at the ends of row scales, residual norms, frequencies and a norm.
    places = ((1, 2560), (1, 2812), (2, 0), (2, 60), (3, 124))
    ones = b"".join(patch(page, offset, 0x3F800000) for page, offset in places)
    yield model_recipe(small_model(), everything, patches=ones)
    for page, offset in places:
        yield model_recipe(small_model(), everything, patches=patch(page, offset, 0x7FC00000))
    # Tensors that fill their pages to the last byte.
    yield model_recipe(
        small_model_parts(vocab_size=64, hidden_size=16, kind=4, flags=0), everything
    )


def text_seeds() -> Iterator[bytes]:
    for mode in (b"\0", b"\2", b"\3"):
        yield mode + b"extract a tar.gz archive into a directory"
        yield mode + "<|user|>\u017f\U0001f999\u3000 e\u0323\u0301 1234's".encode()


def manifest_seeds() -> Iterator[bytes]:
    files = {name: (0o644, name.encode()) for name in ("a", "b", "config.yaml")}
    release = Release(7, 3, files=files | {"bitnet-infer": (0o755, b"x")})
    yield from (release.manifest, release.statement, rollback_order("bitnet", 7, 4, "ab" * 48))


def container_seeds() -> Iterator[bytes]:
    for names in ((), ("ann",), ("ann", "ben")):
        yield container(b"statement\n", map(Signer, names))


def root_seeds() -> Iterator[bytes]:
    """Roots with the keys that trust_root.cc puts in, and a public key with its own."""
    head = b"bitnet-trust-root v1\nversion 1\n"
    lines = b"".join(
        b"key %c n%d p%d %c %c\n" % (0x80 + k, k, k, 0x88 + k, 0x90 + k) for k in range(2)
    )
    yield head + b"role root 1 \x80\nrole release 2 \x80 \x81\n" + lines
    yield (
        head
        + b"role root 1 \x80\nrole release 1 \x80\nrole site 1 \x81\n"
        + b"revoked \x82\nrevoked \x83\n"
        + lines
    )
    name = b"bitnet-public-key v1\nname ann\ncustodian ben\n"
    yield name + b"ed25519 \x88\nml-dsa-87 \x90\n"
    ed25519, mldsa = Signer("ann").publics
    yield name + b"ed25519 %s\nml-dsa-87 %s\n" % (
        ed25519.hex().encode(),
        base64.b64encode(mldsa),
    )


def archive_seeds() -> Iterator[bytes]:
    yield b"\1\xff"
    yield b"\3\x80" + bytes([0, 156, 0x32]) + bytes([2])
    # What archive.cc holds for right, and content for every kind of block and table.
    members = {"MANIFEST": b"# stands for a manifest\n", "empty": b"", "some.bin": b"b" * 700}
    right = b"".join(
        tar_header(name.encode(), 0o644, len(data)) + data + bytes(-len(data) % 512)
        for name, data in members.items()
    )
    for level in (-5, 1, 3, 19):
        yield b"\4\xff" + frame(right.ljust(10240, b"\0"), level)
    words = Path(__file__).read_bytes()
    for content in (words, bytes(range(256)) * 9, hashlib.shake_256(words).digest(3000), b""):
        yield b"\0\xff" + frame(content, 1)
        yield b"\0\x20" + frame(content, 19, write_checksum=0)
    for release in (Release(7, files={"a": (0o644, b"x" * 2000)}), Release(8)):
        yield b"\0\xff" + release.compressed()


def frame(content: bytes, level: int, **options: int) -> bytes:
    """Returns one zstd frame, by the reference implementation."""
    settings = zstandard.ZstdCompressionParameters.from_level(
        level, **({"window_log": 21, "write_content_size": 1, "write_checksum": 1} | options)
    )
    return zstandard.ZstdCompressor(compression_params=settings).compress(content)


def state_seeds() -> Iterator[bytes]:
    boot = "74ec209a-5a4d-4fab-be4d-de3e7f49cd2a"
    yield (
        f"bitnet-state v1\nproduct bitnet\nfloor 0\nroot 1 {'ab' * 48}\ntime {boot} 1 2 3 4 5\n"
        f"log 5 675 {'cd' * 48}\nrefused 3 1 9 110 {'ef' * 48}\ncurrent 2-bc27adc8bc9c7e93\nold -\n"
        "trial 1-54e362e903a90d82 ordered\nrelease 1-54e362e903a90d82 0 9 failed\n"
        "release 2-bc27adc8bc9c7e93 4 0 kept\n"
    ).encode()
    line = b"1 0 1795614702 root - "
    yield line + hashlib.sha384(bytes(48) + line).hexdigest().encode() + b"\n"


def argument_seeds() -> Iterator[bytes]:
    yield b"--config\0c\0--seed\00042\0--stats\0--few\0007\0x"
    yield b"--help"
    yield b"--version"


def log_seeds() -> Iterator[bytes]:
    """Heads about the ends of the ring; nothing changed, one place, one with its chains made right.

    As log.cc reads them: mode, base, delta, ahead, after; changes; then what the mode wants.
    """
    for mode in (0, 4, 2, 2 + 64, 3, 3 + 64, 3 + 128):
        for base, delta in ((0, 0), (0, 40), (1, -1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)):
            place = bytes([mode, base, delta % 256])
            yield place + bytes([0, 0, 0, 3, 90, 65, 0, 20, 66, 1, 4])
            if mode < 2:
                yield place + bytes([0, 2, 0])  # the writer went on while it was read
                yield place + bytes([1, 0, 0]) + place + bytes([2, 1, 0])
    for chains in (0, 8):
        for back in (1, 2, 4093, 4094, 4095, 4096):
            yield bytes([chains, 1, 5, 0, 0, 1]) + struct.pack("<hBB", -back, 24, 1)
    # More data than a record has room for: record 4098 of 4101 has 48 bytes.
    for mode in (8, 8 + 3):
        yield bytes([mode, 1, 5, 0, 0, 1]) + struct.pack("<hBB", -3, 20, 1) + b"\6\1"
    yield bytes([16, 1, 0, 0, 0, 0]) + (2**63 - 1).to_bytes(8, "little") * 2
    yield bytes([32, 0, 9, 0, 0, 0]) + (0xFFFF).to_bytes(2, "little")


def elf_head(note_place: int, *loads: tuple[int, int, int, int, int]) -> bytes:
    """Returns a file header, one program header a load (flags, offset, bytes, align, bytes in
    memory), and the note."""
    head = bytearray(64)
    head[:7] = b"\x7fELF\2\1\1"
    head[32:40] = (64).to_bytes(8, "little")
    head[54:58] = struct.pack("<HH", 56, len(loads))
    head[40:48], head[58:64] = b"\7" * 8, b"\7" * 6  # what `strip` writes again
    for flags, offset, size, align, memory in loads:
        head += struct.pack("<IIQQQQQQ", 1, flags, offset, offset, offset, size, memory, align)
    note = struct.pack("<III8s96x", 8, 96, 1, b"bitnet")
    return bytes(head).ljust(note_place, b"\0") + note + bytes(16)


def executable_seeds() -> Iterator[bytes]:
    """What linkers and sealing make, and what is refused, as executable.cc puts it together."""
    page, place, size = 4096, 2 << 20, 13 * 4096 + 48  # of the harness's model

    def recipe(mode: int, head: bytes, end: int = 0, patches: bytes = b"") -> bytes:
        return struct.pack("<BhH", mode, end, len(head)) + head + patches

    first, model = (4, 0, 420, page, 420), (4, place, size, place, size)
    sealed = elf_head(300, first, model)
    yield recipe(7, sealed)
    yield recipe(7, sealed, 100)
    yield recipe(7, sealed, -1)
    yield recipe(7, sealed, 0, struct.pack("<II", 1 << 31 | 4096, 1))  # a weight
    yield recipe(7, sealed, 0, struct.pack("<II", 1 << 30 | 410, 1))  # the image, late
    yield recipe(0, elf_head(300, first))
    yield recipe(6, elf_head(300, first))
    yield recipe(7, elf_head(300, first, model, model))
    code, data = (5, 0, 240, page, 240), (6, 440, 8, page, 64)
    yield recipe(7, elf_head(300, code, (4, 300, 120, page, 120), data, model))
    yield recipe(7, elf_head(300, (7, 0, 420, page, 420), data, model))
    yield recipe(7, elf_head(300, first, (4, 300, 116, page, 116), model))  # two notes
    yield recipe(7, elf_head(1200, (5, 1200, 120, page, 120), *[data] * 14, model))


def region_seeds() -> Iterator[bytes]:
    yield Path("/proc/self/smaps").read_bytes()[:3000]


# A further harness is one more row.
HARNESSES = (
    Harness("archive", ("base", "crypto/crypto.zig", "release/archive.cc", "release/text.cc"),
            archive_seeds, edges_min=750, bytes_max=8192),
    Harness("arguments", ("base", "platform", "programs/arguments.cc", "programs/report.cc"),
            argument_seeds),
    Harness("config", ("base", "format/config.cc"), lambda: [demo_config().encode()],
            edges_min=100),
    Harness("container", _RELEASE, container_seeds, edges_min=79, bytes_max=20000),
    Harness("executable",
            ("base", "platform", "format/executable.cc", "format/leaves.cc",
             "format/model_file.cc", "programs/arguments.cc", "programs/regions.cc",
             "programs/report.cc"),
            executable_seeds, edges_min=155),
    Harness("log", ("base", "programs/arguments.cc", "programs/report.cc", "runtime/log_ring.cc"),
            log_seeds, edges_min=190),
    Harness("manifest", (*_RELEASE, "release/manifest.cc"), manifest_seeds, edges_min=125),
    Harness("model", ("base", "format/leaves.cc", "format/model_file.cc", "model/leaf_guard.cc",
                      "platform", "runtime/threads.cc"),
            model_seeds, edges_min=250),
    Harness("regions", (*_CRYPTO, "platform", "format/executable.cc", "programs/regions.cc"),
            region_seeds),
    Harness("state", ("base", "crypto/crypto.zig", "release/state.cc", "release/text.cc"),
            state_seeds, edges_min=145),
    Harness("trust_root", _RELEASE, root_seeds, edges_min=165),
    Harness("tokenizer", ("base", "tokenizer"), text_seeds, include=demo_tables, edges_min=100),
)  # fmt: skip
