"""Every fuzz harness: what is linked into it, and what it starts from."""

import hashlib
import itertools
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
    trust_root,
)

__all__ = ["HARNESSES"]

_CRYPTO = ("base", "crypto")
_RELEASE = ("base", "crypto/crypto.zig", "release/text.cc", "release/trust.cc")


def model_seeds() -> Iterator[bytes]:
    for flags in (0, 7):
        for kind in (3, 4):
            yield b"\1" + small_model_parts(flags=flags, kind=kind)
    yield b"\0" + small_model()


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
    ann, ben = Signer("ann"), Signer("ben")
    roles = {"root": (1, [ann]), "release": (2, [ann, ben]), "site": (1, [ben])}
    yield trust_root(1, {"root": (1, [ann]), "release": (1, [ann])})
    yield trust_root(9, roles, [Signer("old")])


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
    yield bytes([0, 20]) + bytes(range(1, 41)) + bytes([4]) + bytes(8)
    yield (
        bytes([1])
        + (5000).to_bytes(8, "little")
        + bytes([30])
        + bytes(range(60))
        + bytes([4])
        + bytes(8)
    )


def executable_seeds() -> Iterator[bytes]:
    """A small file with the form of a program: header, two load segments, the note."""
    note = (8).to_bytes(4, "little") + (96).to_bytes(4, "little") + (1).to_bytes(4, "little")
    note += b"bitnet\0\0" + bytes(96)
    head = bytearray(64)
    head[:7] = b"\x7fELF\2\1\1"
    head[32:40] = (64).to_bytes(8, "little")
    head[54:58] = (56).to_bytes(2, "little") + (2).to_bytes(2, "little")

    def load(flags: int, offset: int, size: int, align: int) -> bytes:
        numbers = (offset, offset, offset, size, size, align)
        return (1).to_bytes(4, "little") + flags.to_bytes(4, "little") + b"".join(
            number.to_bytes(8, "little") for number in numbers
        )  # fmt: skip

    body = bytes(head) + load(4, 0, 64 + 112 + len(note), 4096) + load(4, 292, 64, 2 << 20)
    yield body + note + b"BNAGMODL" + bytes(56)


def region_seeds() -> Iterator[bytes]:
    """Fixed texts: what the kernel shows, what it may show, and what the harness's own process has.

    The two texts of a process that matches stand in regions.cc, too.
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
    for kind in range(4):
        for told in (whole, sealed):
            yield bytes([1, kind, 0]) + bytes(9) + told
    for call in range(1, 6):
        yield bytes([1, 0, call]) + bytes(9) + whole
    for place in (0, 0x15FF, 0x1600, 0x2600, 0x3F00, 0x5000, 0x54FF, 0x5500):
        yield bytes([1, 0, 0]) + place.to_bytes(2, "little") + b"\x80" + bytes(6) + sealed
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
            archive_seeds, edges_min=400, bytes_max=8192),
    Harness("arguments", ("base", "programs/arguments.cc", "programs/report.cc"), argument_seeds,
            edges_min=115),
    Harness("config", ("base", "format/config.cc"), config_seeds, edges_min=275),
    Harness("container", _RELEASE, container_seeds, edges_min=60, bytes_max=20000),
    Harness("executable", (*_CRYPTO, "format/executable.cc"), executable_seeds),
    Harness("log", (*_CRYPTO, "platform", "runtime/log_ring.cc"), log_seeds),
    Harness("manifest", (*_RELEASE, "release/manifest.cc"), manifest_seeds, edges_min=100),
    Harness("model", (*_CRYPTO, "format/leaves.cc", "format/model_file.cc"), model_seeds,
            edges_min=50, bytes_max=32768),
    Harness("regions", ("base", "programs/regions.cc"), region_seeds, edges_min=215,
            bytes_max=8192),
    Harness("state", ("base", "crypto/crypto.zig", "release/state.cc", "release/text.cc"),
            state_seeds, edges_min=100),
    Harness("trust_root", _RELEASE, root_seeds, edges_min=100,
            bytes_max=20000),
    Harness("tokenizer", ("base", "tokenizer"), text_seeds, include=fuzz_tables, edges_min=265,
            bytes_max=2048),
)  # fmt: skip
