"""The Python interpreter of the tables against the `tokenizers` library and the C++ engine."""

import functools
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet.errors import TokenizerError
from bitnet.tokenizer import TokenizerTables, decode, encode, encode_chat
from tests.support.tokenizer_driver import build_driver
from tests.support.tokenizer_oracle import BytesOracle, TextOracle, added_contents
from tests.support.tokenizer_small import compile_json, small_json
from tests.support.tokenizer_texts import NOT_UTF8, bulk_texts, random_bytes

FAMILIES = ("llama3", "qwen2", "qwen35", "gpt2", "smollm2")


def value_of(family: str, *, nfc: bool) -> dict[str, Any]:
    value = small_json(family)
    value["normalizer"] = {"type": "NFC"} if nfc else None
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    size = len(value["model"]["vocab"]) + 3
    value["added_tokens"] += [
        {**flags, "id": size, "content": "<w>", "single_word": True},
        {**flags, "id": size + 1, "content": "<s>", "lstrip": True, "rstrip": True},
        {**flags, "id": size + 2, "content": "é!", "normalized": True},
    ]
    return value


@functools.cache
def pair_of(family: str, nfc: bool) -> tuple[TokenizerTables, TextOracle]:
    value = value_of(family, nfc=nfc)
    return compile_json(value), TextOracle(value)


# All of Unicode, and more often the characters on which the patterns turn.
characters = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from(
        "  \n\r\t'sStTrReEvVlLdDmM\u017f0123456789\u0301\u0323\u3000é각\u1100\u1161\u11a8<|>_!"
    ),
)
texts = st.lists(
    st.one_of(
        st.text(characters, max_size=8),
        st.sampled_from(
            ["<|user|>", "<w>", " <s>\n", "é!", "e\u0301!", "'ll", "'RE", "12345", "hello"]
        ),
        st.builds(lambda c, n: c * n, characters, st.integers(2, 20)),
    ),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("nfc", [False, True], ids=["plain", "nfc"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts)
def test_encode_of_any_text_equals_the_library(family: str, nfc: bool, text: str) -> None:
    """Tools on the builder side would count and cut other tokens than the engine."""
    tables, oracle = pair_of(family, nfc)
    for match_added in (False, True):
        expected = oracle.encode([text], match_added=match_added)[0]
        assert encode(tables, text, match_added=match_added) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_of_any_bytes_equals_the_engine_and_the_oracle(family: str) -> None:
    """Three implementations must agree on bytes that are no text."""
    tables, _ = pair_of(family, True)
    oracle = BytesOracle(value_of(family, nfc=True))
    generator = random.Random(41)
    data = [random_bytes(generator) for _ in range(400)]
    data += [broken + tail for broken in NOT_UTF8 for tail in (b"a", b"a1", b" a", b"\n\n")]
    for text, ids in zip(data, build_driver(tables).encode(data, match_added=False), strict=True):
        assert encode(tables, text) == ids == oracle.encode(text)


def test_decode_gives_the_bytes_of_the_ids() -> None:
    """Decoding must need nothing but the tables, and ignore ids that no token has."""
    tables, _ = pair_of("llama3", False)
    for text in bulk_texts(300, seed=42, specials=added_contents(value_of("llama3", nfc=False))):
        assert decode(tables, encode(tables, text)) == text.encode()
    assert decode(tables, [-1, tables.vocab_size, 1 << 40]) == b""


def test_encode_with_ignore_merges_takes_whole_entries() -> None:
    """Llama-3 emits an entry that merging alone would not reach."""
    value = small_json()
    value["added_tokens"] = []
    value["model"]["vocab"]["Ġxyz"] = 500
    for ignore in (False, True):
        value["model"]["ignore_merges"] = ignore
        ids = encode(compile_json(value), " xyz")
        assert (ids == [500]) is ignore
        assert ids == TextOracle(value).encode([" xyz"], match_added=False)[0]


def test_encode_with_ignore_merges_never_gives_a_control_token() -> None:
    """An entry of the vocabulary that is also special would be typed by a user as plain text."""
    value = small_json()
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    value["model"]["ignore_merges"] = True
    value["model"]["vocab"]["stop"] = size = len(value["model"]["vocab"])
    value["added_tokens"] = [{**flags, "id": size, "content": "stop", "special": True}]
    tables = compile_json(value)
    assert encode(tables, "stop", match_added=True) == [size]
    assert size not in encode(tables, "stop")
    assert size not in build_driver(tables).encode([b"stop"], match_added=False)[0]


def test_encode_chat_without_template_is_refused() -> None:
    """Bare text in place of a conversation would be answered, wrongly."""
    tables, _ = pair_of("llama3", False)
    with pytest.raises(TokenizerError, match="no chat template"):
        encode_chat(tables, "hello")
    with pytest.raises(TokenizerError, match="no chat template for a system"):
        encode_chat(tables, "hello", "be brief")


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_of_folded_contractions_equals_the_library(family: str) -> None:
    """`(?i:'s` of the library also takes U+017F; only merges across the cut show where it is."""
    value = small_json(family)
    vocabulary = value["model"]["vocab"]
    value["added_tokens"] = []
    for left, right in (("Å", "¿"), ("Å¿", "x"), ("s", "x"), ("S", "x"), ("E", "x"), ("L", "x")):
        vocabulary[left + right] = len(vocabulary)
        value["model"]["merges"].append([left, right])
    texts = [
        f"{before}'{letters}x"
        for before in ("", "a", " ")
        for letters in (
            "\u017f",
            "s",
            "S",
            "re",
            "RE",
            "rE",
            "lL",
            "L",
            "l\u017f",
            "\u017f\u017f",
            "vE",
        )
    ]
    tables, oracle = compile_json(value), TextOracle(value)
    expected = oracle.encode(texts, match_added=False)
    assert [encode(tables, text) for text in texts] == expected
    assert build_driver(tables).encode([t.encode() for t in texts], match_added=False) == expected
