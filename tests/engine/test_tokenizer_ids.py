"""Token ids of the C++ tokenizer against the `tokenizers` library, on many texts per family."""

import functools
import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from bitnet.tokenizer import TokenizerTables, compile_tables
from bitnet.tokenizer.source import parse_tokenizer
from tests.support import vocabularies
from tests.support.tokenizer_driver import Driver, build_driver
from tests.support.tokenizer_oracle import FAMILIES, TextOracle, added_contents, family_json
from tests.support.tokenizer_texts import SAMPLER, bulk_texts

# By mode: added tokens matched, or ignored.
TEXT_COUNT = {True: 50_000, False: 100_000}
EMULATED_COUNT = 2_000


@functools.cache
def compiled(family: str) -> TokenizerTables:
    data = json.dumps(family_json(family)).encode()
    return compile_tables(parse_tokenizer(data, file=Path("tokenizer.json")))


def assert_same_ids(
    driver: Driver, oracle: TextOracle, texts: list[str], *, match_added: bool
) -> None:
    found = driver.encode([text.encode() for text in texts], match_added=match_added)
    expected = oracle.encode(texts, match_added=match_added)
    for text, ids, right in zip(texts, found, expected, strict=True):
        assert ids == right, f"text {text!a}"


@functools.cache
def oracle_of(family: str) -> TextOracle:
    return TextOracle(family_json(family))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("match_added", [True, False], ids=["match", "ignore"])
@pytest.mark.parametrize("family", FAMILIES)
def test_encode_of_generated_texts_equals_the_library(family: str, match_added: bool) -> None:
    """A model fed with other ids than it was trained with gives plausible, worse answers."""
    value = family_json(family)
    count = TEXT_COUNT[match_added]
    texts = bulk_texts(count, seed=2 + match_added, specials=added_contents(value))
    assert_same_ids(
        build_driver(compiled(family)), oracle_of(family), texts, match_added=match_added
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_of_real_text_equals_the_library(family: str) -> None:
    """Long real documents exercise pieces and merges that short generated texts do not reach."""
    root = vocabularies.ROOT
    documents = [SAMPLER, (root / "models/demo/README.md").read_text()]
    documents += [path.read_text() for path in sorted((root / "docs").rglob("*.md"))]
    documents += [Path(__file__).read_text(), (root / "engine/tokenizer/merge.cc").read_text()]
    for match_added in (True, False):
        assert_same_ids(
            build_driver(compiled(family)), oracle_of(family), documents, match_added=match_added
        )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", FAMILIES)
def test_encode_of_every_character_equals_the_library(family: str) -> None:
    """A wrong class or decomposition of a single code point would go unnoticed in random texts."""
    points = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 61)]
    texts = []
    for begin in range(0, len(points), 64):
        chunk = [chr(point) for point in points[begin : begin + 64]]
        texts.append("".join(f"a{c}1 {c}" for c in chunk))
        texts.append("".join(f"'{c} \n{c}e\u0323{c}\u0301" for c in chunk))
    assert_same_ids(build_driver(compiled(family)), oracle_of(family), texts, match_added=True)


@pytest.mark.parametrize("family", ["llama3", "qwen35", "smollm2"])
def test_encode_on_aarch64_equals_the_library(family: str) -> None:
    """The same tables and code on the other architecture; under emulation on an x86_64 host."""
    value = family_json(family)
    texts = bulk_texts(EMULATED_COUNT, seed=5, specials=added_contents(value))
    driver = build_driver(compiled(family), arch="aarch64")
    for match_added in (True, False):
        assert_same_ids(driver, oracle_of(family), texts, match_added=match_added)


def check_vector(family: str, text: str, ids: list[int]) -> None:
    (found,) = build_driver(compiled(family)).encode([text.encode()], match_added=True)
    assert found == ids


def test_encode_with_known_texts_gives_published_ids() -> None:
    """Ids written down from the published tokenizers, with no library between them and us."""
    check_vector("llama3", "Hello world", [9906, 1917])
    check_vector("llama3", "  a 12345\n\n b", [220, 264, 220, 4513, 1774, 271, 293])
    check_vector("llama3", "<|eot_id|> x", [128009, 865])
    check_vector("llama3", " Việt", [101798])
    check_vector("qwen3", "Hello world", [9707, 1879])
    check_vector("qwen3", "  a 12345\n\n b", [220, 264, 220, 16, 17, 18, 19, 20, 271, 293])
    check_vector("qwen3", " <|im_end|>a", [220, 151645, 64])
    check_vector("gpt2", "Hello world", [15496, 995])


def flagged_json() -> dict[str, Any]:
    """The demo tokenizer with NFC and added tokens of every flag."""
    value = family_json("demo")
    value["normalizer"] = {"type": "NFC"}
    texts = {
        "<w>": {"single_word": True},
        "word": {"single_word": True, "normalized": True},
        "<l>": {"lstrip": True},
        "<r>": {"rstrip": True, "special": True},
        "<lr>": {"lstrip": True, "rstrip": True, "normalized": True},
        "é!": {"normalized": True},
        "e\u0301?": {"normalized": True},
        "e\u0301+": {},
        "<|user|> ": {},
        "<|us": {"special": True},
        "x": {"single_word": True},
        "a<w>b": {},
        "w>": {},
        "日本": {"single_word": True, "lstrip": True, "normalized": True},
    }
    vocabulary = value["model"]["vocab"]
    fresh = itertools.count(len(vocabulary))
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    value["added_tokens"] = [
        *value["added_tokens"],
        *(
            {
                "id": vocabulary[text] if text in vocabulary else next(fresh),
                "content": text,
                **plain,
                **flags,
            }
            for text, flags in texts.items()
        ),
    ]
    return value


@functools.cache
def flagged() -> tuple[TokenizerTables, TextOracle]:
    value = flagged_json()
    data = json.dumps(value).encode()
    return compile_tables(parse_tokenizer(data, file=Path("t.json"))), TextOracle(value)


def flagged_texts(count: int) -> list[str]:
    contents = added_contents(flagged_json())
    near = [
        f"{left}{text}{right}"
        for text in contents
        for left in "a _é\u0301\n"
        for right in "z 1\u0301-"
    ]
    return bulk_texts(count, seed=9, specials=[*contents, *near])


def test_encode_with_flags_of_added_tokens_equals_the_library() -> None:
    """single_word, lstrip, rstrip and normalized decide what a control token swallows."""
    tables, oracle = flagged()
    assert_same_ids(build_driver(tables), oracle, flagged_texts(20_000), match_added=True)


def test_encode_of_every_character_beside_flagged_tokens_equals_the_library() -> None:
    """Word characters and white space are classes of their own in the library."""
    tables, oracle = flagged()
    points = [*range(0x3100), *range(0xA000, 0xD800, 7), *range(0xE000, 0x20000, 7), 0xE000, 0xE001]
    characters = [chr(point) for point in points if point != 0xDFFF]
    texts = [f"{c}<w>{c} <w>{c}<w>. {c}<lr>{c}{c} <l>" for c in characters]
    assert_same_ids(build_driver(tables), oracle, texts, match_added=True)


def test_encode_of_every_composition_equals_the_library() -> None:
    """Each pair that composes, also across a mark that may block it, and Hangul at its edges."""
    texts = []
    for point in range(0x110000):
        step = unicodedata.decomposition(chr(point))
        if step and not step.startswith("<"):
            parts = "".join(chr(int(part, 16)) for part in step.split())
            full = unicodedata.normalize("NFD", chr(point))
            between = [parts[0] + mark + parts[1:] for mark in "\u0323\u0301\u0345\u0334a"]
            texts += [chr(point) + "\u0323\u0301", parts, full + "\u0327", *between]
    jamo = "\u1100\u1112\u1113\u1160\u1161\u1175\u1176\u11a7\u11a8\u11c2\u11c3\uac00\uac01\ud7a3"
    texts += ["".join(three) for three in itertools.product(jamo, repeat=3)]
    assert_same_ids(build_driver(compiled("qwen3")), oracle_of("qwen3"), texts, match_added=True)
