"""Work of the tokenizer grows with the length of the text, not with its square, for any text."""

import functools
import json
import random
import re
import resource
import struct
import subprocess
from pathlib import Path

import pytest

from bitnet.tokenizer import TokenizerTables, compile_tables
from bitnet.tokenizer.source import parse_tokenizer
from tests.support.tokenizer_driver import Driver, build_driver
from tests.support.tokenizer_oracle import family_json

SHORT, LONG = 16_384, 65_536
# n log n from the short to the long text, and some room: a quadratic step would give 16.
GROWTH_MAX = 5.5
MEBIBYTE = 1 << 20
MEBIBYTE_SECONDS_MAX = 20  # of processor time; all texts together take half a second


@functools.cache
def tables(*, nfc: bool) -> TokenizerTables:
    value = family_json("demo")
    value["normalizer"] = {"type": "NFC"} if nfc else None
    plain = dict.fromkeys(("single_word", "normalized", "special"), False)
    size = len(value["model"]["vocab"])
    strips = [
        {"id": size, "content": "<l>", "lstrip": True, "rstrip": False, **plain},
        {"id": size + 1, "content": "<r>", "lstrip": False, "rstrip": True, **plain},
    ]
    value["added_tokens"] = [*value["added_tokens"], *strips]
    return compile_tables(parse_tokenizer(json.dumps(value).encode(), file=Path("t.json")))


def shuffled(characters: str, count: int) -> bytes:
    return "".join(random.Random(1).choices(characters, k=count)).encode()


def repeated(text: str, count: int) -> bytes:
    data = text.encode()
    return (data * (count // len(data) + 1))[: count - count % len(data)]


ATTACKS = {
    "letter": lambda n: repeated("a", n),
    "word": lambda n: repeated("information", n),
    "letters": lambda n: shuffled("abcdefghijklmnopqrstuvwxyz", n),
    "spaces": lambda n: repeated(" ", n),
    "spaces-before-newline": lambda n: repeated(" ", n - 2) + b"\nx",
    "newlines": lambda n: repeated("\n", n),
    "space-newline": lambda n: repeated(" \n ", n),
    "digits": lambda n: repeated("7", n),
    "signs": lambda n: repeated("<|", n),
    "almost-a-token": lambda n: repeated("<|assistant|", n),
    "tokens": lambda n: repeated("<|user|>", n),
    "strips": lambda n: repeated("<l>" + " " * 50 + "<r>" + " " * 50, n),
    "spaces-before-token": lambda n: repeated(" ", n) + b"<l>",
    "marks": lambda n: repeated("\u0301", n),
    "marks-out-of-order": lambda n: shuffled("\u0301\u0323\u0327\u0345\u05b0\u0651", n // 2),
    "marks-on-a-letter": lambda n: b"e" + shuffled("\u0301\u0323", n // 2),
    "expanding": lambda n: repeated("\u0390", n),
    "jamo": lambda n: repeated("\u1100\u1161\u11a8", n),
    "invalid": lambda n: b"\xff" * n,
    "cut": lambda n: b"\xf0\x9f\xa6" * (n // 3),
}


def instructions(driver: Driver, text: bytes) -> int:
    """Instructions of the whole program, counted by valgrind: the same on every run."""
    request = b"i" + struct.pack("<I", len(text)) + text
    result = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *driver.argv],
        input=request,
        capture_output=True,
        check=True,
    )
    (count,) = struct.unpack_from("<I", result.stdout)
    assert len(result.stdout) == 4 + 4 * count
    assert (count > 0) == (len(text) > 0), "nothing was tokenised"
    found = re.search(rb"Collected : (\d+)", result.stderr)
    assert found, result.stderr[-500:]
    return int(found[1])


@pytest.mark.parametrize("attack", ATTACKS)
def test_encode_of_a_long_run_grows_linearly(attack: str) -> None:
    """A prompt made to be slow must not hold the engine up."""
    driver = build_driver(tables(nfc=True))
    start = instructions(driver, b"")
    short = instructions(driver, ATTACKS[attack](SHORT)) - start
    long = instructions(driver, ATTACKS[attack](LONG)) - start
    assert long / short < GROWTH_MAX, f"{short} instructions, then {long}"


@pytest.mark.parametrize("nfc", [False, True], ids=["plain", "nfc"])
def test_encode_of_a_mebibyte_ends_soon(nfc: bool) -> None:
    """The same at full size: a quadratic step would take a million squared."""
    driver = build_driver(tables(nfc=nfc))
    texts = [attack(MEBIBYTE) for attack in ATTACKS.values()]
    begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert all(driver.encode(texts, match_added=True))
    took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin
    assert took < MEBIBYTE_SECONDS_MAX
