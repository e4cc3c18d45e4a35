"""Bytes that are no valid text, and the way back from ids to bytes."""

import functools
import json
import random
import unicodedata
from pathlib import Path

import pytest

from bitnet.tokenizer import TokenizerTables, compile_tables
from bitnet.tokenizer.source import parse_tokenizer
from tests.support.tokenizer_driver import build_driver
from tests.support.tokenizer_oracle import FAMILIES, BytesOracle, added_contents, family_json
from tests.support.tokenizer_texts import bulk_texts, random_bytes

BYTES_COUNT = 5_000
WHOLE_ALPHABET = ("llama3", "qwen3", "gpt2", "demo")


@functools.cache
def compiled(family: str) -> TokenizerTables:
    data = json.dumps(family_json(family)).encode()
    return compile_tables(parse_tokenizer(data, file=Path("tokenizer.json")))


def byte_texts(count: int, seed: int) -> list[bytes]:
    generator = random.Random(seed)
    edges = [
        b"",
        b"\xff",
        b"\x80" * 300,
        b"'\xff",
        b" \xc3",
        b"\xe2\x82",
        b"a\xffb",
        b"1\xff2",
        b" \xff\n\n",
    ]
    return [*edges, *(random_bytes(generator) for _ in range(count))]


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_of_invalid_utf8_equals_the_escaped_text(family: str) -> None:
    """A prompt of arbitrary bytes must be taken byte by byte, neither refused nor replaced."""
    texts = byte_texts(BYTES_COUNT, 11)
    oracle = BytesOracle(family_json(family))
    found = build_driver(compiled(family)).encode(texts, match_added=False)
    for text, ids in zip(texts, found, strict=True):
        assert ids == oracle.encode(text), f"bytes {text!r}"


@pytest.mark.parametrize("family", WHOLE_ALPHABET)
def test_decode_of_encoded_bytes_gives_them_back(family: str) -> None:
    """What a model repeats from its prompt must come out as it went in."""
    driver = build_driver(compiled(family))
    specials = added_contents(family_json(family))
    texts = byte_texts(3_000, 12)
    texts += [text.encode() for text in bulk_texts(3_000, seed=13, specials=specials)]
    for match_added in (False, True):
        back = driver.decode(driver.encode(texts, match_added=match_added))
        for text, found in zip(texts, back, strict=True):
            assert found == (nfc_bytes(text, found) if family == "qwen3" else text)


def nfc_bytes(text: bytes, found: bytes) -> bytes:
    """The text itself, or its normal form where Python's table of it agrees with the library's."""
    decoded = text.decode("utf-8", "surrogateescape")
    normal = unicodedata.normalize("NFC", decoded).encode("utf-8", "surrogateescape")
    if found not in (text, normal):
        # Characters younger than the library's normaliser stay as they are.
        assert unicodedata.normalize("NFC", found.decode("utf-8", "surrogateescape")) == (
            unicodedata.normalize("NFC", decoded)
        )
        return found
    return found


def test_decode_of_unknown_ids_gives_nothing() -> None:
    """An id past the vocabulary (a padded head) must not read past the tables."""
    tables = compiled("demo")
    driver = build_driver(tables)
    edge = tables.vocab_size
    assert driver.decode([[edge, edge + 1, 1 << 20, 0xFFFFFFFF], [edge - 1]])[0] == b""


def test_encode_of_a_byte_without_token_drops_it() -> None:
    """SmolLM2 has no token for some bytes; the library drops them, and so do we."""
    missing = [byte for byte in range(256) if compiled("smollm2").byte_ids[byte] == 0xFFFFFFFF]
    assert missing
    driver = build_driver(compiled("smollm2"))
    assert driver.encode([bytes([missing[0]])], match_added=False) == [[]]
