"""The C++ tokenizer under the address and undefined-behaviour sanitizers."""

import random

import pytest

from bitnet.tokenizer import compile_tokenizer
from tests.support.tokenizer_driver import Driver, build_driver
from tests.support.tokenizer_oracle import TextOracle, added_contents, family_json
from tests.support.tokenizer_small import compile_json
from tests.support.tokenizer_texts import bulk_texts, random_bytes
from tests.support.vocabularies import DEMO

TEXT_COUNT = 3_000


def checked_driver(family: str, *, nfc: bool) -> tuple[Driver, dict[str, object]]:
    value = family_json(family)
    value["normalizer"] = {"type": "NFC"} if nfc else None
    return build_driver(compile_json(value), sanitize=True), value


@pytest.mark.parametrize("nfc", [False, True], ids=["plain", "nfc"])
@pytest.mark.parametrize("match_added", [False, True], ids=["ignore", "match"])
def test_encode_of_generated_texts_runs_clean_and_right(nfc: bool, match_added: bool) -> None:
    """A read past a text or a table may not change the ids, and only a sanitizer sees it."""
    driver, value = checked_driver("demo", nfc=nfc)
    texts = bulk_texts(TEXT_COUNT, seed=31, specials=added_contents(value))
    found = driver.encode([text.encode() for text in texts], match_added=match_added)
    assert found == TextOracle(value).encode(texts, match_added=match_added)


@pytest.mark.parametrize("nfc", [False, True], ids=["plain", "nfc"])
def test_encode_of_random_bytes_runs_clean(nfc: bool) -> None:
    """Every cut of a character at the end of a text, and noise."""
    driver, _ = checked_driver("demo", nfc=nfc)
    generator = random.Random(32)
    texts = [random_bytes(generator) for _ in range(TEXT_COUNT)]
    texts += [generator.randbytes(generator.randrange(400)) for _ in range(TEXT_COUNT)]
    whole = "'\u017f\U0001f999\u3000 e\u0323\u0301".encode()
    texts += [
        whole[begin:end] for begin in range(len(whole)) for end in range(begin, len(whole) + 1)
    ]
    back = driver.decode(driver.encode(texts, match_added=True))
    if not nfc:
        assert back == texts


@pytest.mark.parametrize("nfc", [False, True], ids=["plain", "nfc"])
def test_encode_of_long_runs_runs_clean(nfc: bool) -> None:
    """Scratch memory must suffice for the longest piece and the largest growth under NFC."""
    driver, _ = checked_driver("demo", nfc=nfc)
    shapes = [
        "a",
        " ",
        "\n",
        "7",
        "<|",
        "<|user|>",
        "\u0301",
        "\u0301\u0323",
        "\u0390",
        "\U0001d160",
        "\u1f82",
        "\uac01",
    ]
    texts = [(shape * (20_000 // len(shape.encode()))).encode() for shape in shapes]
    texts += [b"\xff" * 20_000, b"\xf0\x9f\xa6" * 5_000]
    assert all(driver.encode(texts, match_added=True))


def test_encode_chat_of_random_bytes_runs_clean() -> None:
    """Gathering the text between control tokens copies messages into scratch memory."""
    driver = build_driver(compile_tokenizer(DEMO), sanitize=True)
    generator = random.Random(33)
    messages = [
        b"",
        b" ",
        b"\xe3\x80\x80",
        b"\xff ",
        *(random_bytes(generator) for _ in range(500)),
    ]
    assert all(driver.encode_chat([(b"", message) for message in messages]))
