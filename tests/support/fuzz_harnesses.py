"""Every fuzz harness: what is linked into it, and what it starts from."""

import base64
import hashlib
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import zstandard

from bitnet.seal.run_config import KEYS
from tests.support.engine import PROTECTIONS, small_model, small_model_parts
from tests.support.fuzz_tables import fuzz_tables
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
    """What each rule of the tokenizer turns on, for each set of tables and each question."""
    texts = (
        "extract a tar.gz archive into a directory",
        "<|user|>\u017f\U0001f999\u3000 e\u0323\u0301 1234's",
        "I'LL they've 'S 'Re hello\r\n\n  world \t x",
        "\u1100\u1161\u11a8 \uac00\u11a8 \uac01 \u0344\u0390\ufb2c",
        "\U0001d160\U0001d160\U0001d160",  # no text grows more
        "a\u0315\u0300\u05ae\u0301b\u0327\u0323\u0307 \u0958\u212b",
        "\U00011099\U000110ba \U0001d7d8\u0301\uac00\u11c2\ud7a3\u11a7",
        "\u0967\u0968 12 \u00bd\u2167 \u4e00\u4e8c 3",
        "\u2003 \u3000\x1c\x85 qZ q~Z \x00 \x7f\xa0",
    )
    for table in range(5):
        for asked, text in itertools.product(range(3), texts):
            yield bytes([table + 5 * asked, 7 * (len(text) & 1), 0]) + text.encode()
        yield bytes([table, 0, 0]) + b"\xc3a\xe2\x82\xf0\x9f\xa6 \xed\xa0\x80\xff1\xc0\xaf'\xcc"


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
    words = Path(__file__).read_bytes()[:16384]
    for content in (words, bytes(range(256)) * 9, hashlib.shake_256(words).digest(3000), b""):
        yield b"\0\xff" + frame(content, 1)
        yield b"\0\x20" + frame(content, 19, write_checksum=0)
    for release in (Release(7, files={"a": (0o644, b"x" * 2000)}), Release(8)):
        yield b"\0\xff" + release.compressed()


def bundle_seeds() -> Iterator[bytes]:
    """Parts in and out of order, twice, cut, of a medium that cannot be read; a bundle as it is."""

    def part(
        index: int, count: int, begin: int, size: int, kind: int = 3, more: bytes = b""
    ) -> bytes:
        return struct.pack("<BHHHH", kind, index, count, begin, size) + more

    two = part(1, 2, 0, 100), part(2, 2, 100, 200)
    edited = part(2, 2, 100, 200, 3 | 16, struct.pack("<HB", 512 + 77, 1))
    head = part(2, 2, 100, 200, 3 | 16, struct.pack("<HB", 200, ord("x")))
    cut = part(2, 2, 100, 200, 3 | 8, struct.pack("<H", 700))
    for folder in (b"\0\xff", b"\1\x10"):
        for files in (two, two[::-1], (*two, two[0]), two[:1], (two[0], edited), (two[0], head)):
            yield folder + b"".join(files)
        for unreadable in (3, 512, 600, 1000):
            more = struct.pack("<H", unreadable)
            yield folder + two[0] + part(2, 2, 100, 200, 3 | 128, more)
        yield folder + cut + two[0] + two[1]
        yield folder + part(1, 3, 0, 100) + part(2, 3, 100, 100) + part(3, 3, 200, 100)
        yield folder + part(1, 3, 0, 100) + part(2, 3, 90, 100) + part(3, 3, 200, 100)
        yield folder + part(1, 2, 0, 100) + part(2, 2, 100, 199)
        yield folder + two[0] + part(2, 2, 100, 200, 2)  # named like no part
        yield folder + b"\4"
        yield folder + b"\x84" + struct.pack("<H", 299)
        yield folder + b"\x15" + struct.pack("<HB", 299, 1)
        yield folder + b"\1\x20bitnet-part v1\nbundle 0123456789ab"
        yield folder + part(1, 1, 0, 300)
        yield folder + part(999, 999, 0, 100) + part(1000, 1000, 0, 100)


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
    """Lines of each program's kind: words that stand alone, a verb with more, joined values."""
    needed = ("--config", "c", "--seed", "00042")
    lines = (
        (*needed, "--stats", "--few", "7", "x"),
        (*needed, "--keep-old=3d", "--limit=100", "--keep-old", "--help"),
        ("root", "--stats", "install", *needed, "file", "", "--keep-old="),
        ("x", "y", *needed),
        (*needed, "--few", "18446744073709551617"),
        ("--seed", "18446744073709551615", "--config"),
        ("--seed", "1", "--seed", "1"),
        ("--few", "10"),
        ("--limit=101",),
        ("--help",),
        ("--config", "--version", "--version"),
        ("--nothing\x1b\u00e9" + 300 * "n",),
        (),
    )
    for number, line in enumerate(lines):
        yield b"\0".join(word.encode() for word in ("\1program", *line))
        if number < 4:
            yield b"\0".join(word.encode() for word in ("\2program", *line))
    yield b""


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
    """Fixed texts: what the kernel shows, what it may show, and what the harness's own process has.

    The texts of a process that matches stand in regions.cc, too.
    """
    path = b"/opt/bitnet/bitnet-infer"
    names = (
        b"", b"[stack]", b"[vdso]", b"[anon:a b]", b"/dev/shm/bitnet.log", path + b" (deleted)",
        b"/srv/caf\xc3\xa9/\xff\\012b", b"/" + b"long/" * 700, b" two  spaces ",
    )  # fmt: skip
    text = b"".join(
        b"%x-%x %s %08x fe:00 260131                     %s\n"
        b"Size:                 20 kB\nLocked:            %7d kB\nVmFlags: rd ex mr mw me \n"
        % (number << 12, number + 1 << 12, rights, number << 12, name, 4 * number)
        for number, (name, rights) in enumerate(
            zip(names, 3 * (b"r--p", b"r-xp", b"rw-s"), strict=True), 1
        )
    )
    yield b"\0" + text
    yield b"\0" + b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]"
    for number in (b"10000000000000000", b"0", b"ffffffffffffffff"):
        yield b"\0" + number + b"-ffffffffffffffff rwxs 0 0:0 0 \nLocked: 18446744073709551616 kB"
    parts = {
        "read": b"7f0000400000-7f0000402000 r--p 00000000 fe:00 7 \1\n",
        "run": b"7f0000402000-7f0000403000 r-xp 00001000 fe:00 7 \1\n",
        "write": b"7f0000403000-7f0000405000 rw-p 00001000 fe:00 7 \1\n",
        "payload": b"7f0000600000-7f0000601000 r--p 00003000 fe:00 7 \1\n",
    }
    whole = (
        parts["read"] + b"Rss: 8 kB\nLocked:   8 kB\n" + parts["run"] + b"Locked: 0 kB\n"
        + parts["write"] + parts["payload"]
        + b"7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0 [stack]\n"
        b"7ffc00002000-7ffc00003000 r-xp 00000000 00:00 0 [vdso]\n"
    )  # fmt: skip
    relocated = (
        b"7f0000403000-7f0000404000 r--p 00001000 fe:00 7 \1\n"
        b"7f0000404000-7f0000405000 rw-p 00002000 fe:00 7 \1\n"
    )
    sealed = parts["read"] + parts["run"] + relocated + parts["payload"]
    resident = sealed + b"7f0000800000-7f0000801000 r--p 00000000 00:00 0 \n"
    for kind in range(4):
        for told in (whole, sealed):
            yield bytes([1, kind, 0]) + bytes(9) + told
    for call in range(1, 6):
        yield bytes([1, 0, call]) + bytes(9) + whole
    for place in (0, 0x15FF, 0x1600, 0x2600, 0x3F00, 0x5000, 0x54FF, 0x5500):
        yield bytes([1, 0, 0]) + place.to_bytes(2, "little") + b"\x80" + bytes(6) + sealed
    for place in (0, 0x5000, 0x6000, 0x64FF, 0x6500):
        yield bytes([1, 0, 0]) + place.to_bytes(2, "little") + b"\x80" + bytes(6) + resident
    for copy in (
        b"7f0000801000-7f0000802000 r--p 00000000 00:00 0 \n",
        b"7f0000800000-7f0000802000 r--p 00000000 00:00 0 \n",
        b"7f0000800000-7f0000800500 r--p 00000000 00:00 0 \n",
        b"7f0000800000-7f0000801000 rw-p 00000000 00:00 0 \n",
        b"7f0000800000-7f0000801000 r--p 00000000 00:00 0 [anon:a]\n",
    ):
        yield bytes([1, 0, 0]) + bytes(9) + sealed + copy
        yield bytes([1, 0, 0]) + b"\x00\x60\x80" + bytes(6) + sealed + copy
    for part in parts.values():
        yield bytes([1, 0, 0]) + bytes(9) + whole.replace(part, b"")
        yield bytes([1, 0, 0]) + bytes(9) + whole.replace(part, part + part)
    for line in (
        b"rwxp 0 0:0 0 [vdso]",
        b"r-xp 0 0:0 0 /b.so",
        b"rwxp 0 0:0 0 \1",
        b"r-xs 0 0:0 0 \1",
    ):
        yield bytes([1, 0, 0]) + bytes(9) + whole + b"7ffc00004000-7ffc00005000 " + line
    for name in (b"self", b"1", b"4194304", b"0123456789", b"01234567890", b"1/../1", b"", b"me"):
        yield b"\2" + name


def config_seeds() -> Iterator[bytes]:
    """The demo's file; then every form and every word that docs/formats/config.md knows."""
    yield demo_config().encode()
    layers = ", ".join(f'"{name}"' for name in PROTECTIONS)
    letters = "".join(map(chr, range(97, 105)))
    forms = (
        ("sealed", '"m \\"q\\" \\\\ \\n\\t\\x00\\x7f \u00e9 #"', "/a/b-c_d+e.f"),  # model
        ("16", "1048576", "512 # positions"),  # context
        ("f32", "f16", "int8"),  # kv_cache
        ("1", "16", "512"),  # max_new_tokens
        ("1", "67108864", "8192"),  # prompt_bytes_max
        ("1", "512", "64"),  # prefill_chunk
        ("1", "64", "3"),  # threads
        ("[1023]", f"[{', '.join(map(str, range(64)))}]", "any"),  # cores
        ("mapped", "resident", "mapped"),  # weights
        ("all", "arena", "all"),  # lock
        ("[]", f"[{layers}]", '[ "filter" ,"mseal" ]'),  # accept_missing
        ("full", "lazy", "off"),  # verify
        ("off", "/dev/shm/bitnet.log", '"off"'),  # log
        ("no", "yes", "no"),  # log_text
        ("auto", "avx512vnni", "i8mm"),  # isa
        ("chat", "raw", "chat"),  # prompt
        ('""', '"You are\\na \\"tool\\".\\x1b"', '"\u3000 \U0001f999"'),  # system
        ("0", "100", "0.70000000"),  # temperature
        ("0", "1048576", "40"),  # top_k
        ("1", "0.00000001", "0.95"),  # top_p
        ("1", "10", "1.12345678"),  # repetition_penalty
        ("[]", "[" + ",".join(f'"{letter}"' for letter in 2 * letters) + "]",
         '[ "' + 256 * "s" + '" , "\\n" ]  # two'),  # stop
    )  # fmt: skip
    for number in range(3):
        lines = [f"{key.name}: {form[number]}" for key, form in zip(KEYS, forms, strict=True)]
        ending = ("", "\n", "  # a comment\n\n# and a line of one")[number]
        yield ("\n".join(lines[::-1] if number == 1 else lines) + ending).encode()
    # One step past each limit: refused, as long as the limit is where it must be.
    past = {
        "model": '""', "context": "15", "max_new_tokens": "0", "prompt_bytes_max": "0",
        "prefill_chunk": "0", "threads": "0", "cores": "[1024]", "log": '""',
        "system": '"\\x80"', "temperature": "100.000001", "top_k": "1048577", "top_p": "0",
        "repetition_penalty": "0.0", "stop": '[""]',
    }  # fmt: skip
    over = {
        "context": "1048577", "prompt_bytes_max": "67108865", "prefill_chunk": "513",
        "threads": "65", "top_p": "1.0000001", "repetition_penalty": "10.000001",
        "temperature": "0.000000001", "stop": f'["{257 * "s"}"]', "accept_missing": '["filters"]',
    }  # fmt: skip
    for key, value in [*past.items(), *over.items()]:
        lines = [
            f"{each.name}: {value if each.name == key else form[0]}"
            for each, form in zip(KEYS, forms, strict=True)
        ]
        yield "\n".join(lines).encode()


# A further harness is one more row.
HARNESSES = (
    Harness("archive", ("base", "crypto/crypto.zig", "release/archive.cc", "release/text.cc"),
            archive_seeds, edges_min=750, bytes_max=8192),
    Harness("arguments", ("base", "programs/arguments.cc", "programs/report.cc"), argument_seeds,
            edges_min=115),
    Harness("bundle", (*_RELEASE, "release/bundle.cc", "release/content.cc", "release/manifest.cc"),
            bundle_seeds, edges_min=230),
    Harness("config", ("base", "format/config.cc"), config_seeds, edges_min=275),
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
    Harness("regions", ("base", "programs/regions.cc"), region_seeds, edges_min=215,
            bytes_max=8192),
    Harness("state", ("base", "crypto/crypto.zig", "release/state.cc", "release/text.cc"),
            state_seeds, edges_min=145),
    Harness("trust_root", _RELEASE, root_seeds, edges_min=165),
    Harness("tokenizer", ("base", "tokenizer"), text_seeds, include=fuzz_tables, edges_min=265,
            bytes_max=2048),
)  # fmt: skip
