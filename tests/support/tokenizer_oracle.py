"""What token ids ought to be, by the `tokenizers` library, and by `regex` for invalid text."""

import copy
import functools
import json
import os
import unicodedata
from typing import Any, Final

import regex
from tokenizers import Tokenizer

from bitnet.tokenizer.patterns import GPT2_PATTERN, QWEN35_PATTERN
from tests.support import vocabularies

__all__ = ["FAMILIES", "BytesOracle", "TextOracle", "added_contents", "family_json"]

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

FAMILIES: Final = ("llama3", "qwen3", "qwen35", "gpt2", "smollm2")


@functools.cache
def _read(name: str) -> dict[str, Any]:
    path = vocabularies.DEMO if name == "demo" else vocabularies.vocabulary(name)
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def family_json(name: str) -> dict[str, Any]:
    """A tokenizer.json of a family as a value of the caller's own.

    Qwen3.5 is its published pattern over the vocabulary of Qwen3, which has the same normaliser and
    model.
    """
    if name == "qwen35":
        value = copy.copy(_read("qwen3"))
        value["pre_tokenizer"] = vocabularies.split_sequence(QWEN35_PATTERN)
        return value
    return copy.copy(_read(name))


def added_contents(value: dict[str, Any]) -> list[str]:
    """Texts of the added tokens."""
    return [token["content"] for token in value["added_tokens"]]


class TextOracle:
    """The library on one tokenizer.json, with its added tokens and without."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.matching = Tokenizer.from_str(json.dumps(value))
        self.ignoring = Tokenizer.from_str(json.dumps({**value, "added_tokens": []}))

    def encode(self, texts: list[str], *, match_added: bool) -> list[list[int]]:
        """Token ids of each text, no special tokens added around it."""
        tokenizer = self.matching if match_added else self.ignoring
        # In slices: an encoding holds far more than its ids.
        return [
            encoding.ids
            for begin in range(0, len(texts), 5000)
            for encoding in tokenizer.encode_batch_fast(
                texts[begin : begin + 5000], add_special_tokens=False
            )
        ]


def _spelling() -> list[str]:
    """The byte-level alphabet from its definition: printable bytes stand for themselves."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    spelled = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        spelled.setdefault(byte, chr(256 + len(spelled) - len(printable)))
    return [spelled[byte] for byte in range(256)]


class BytesOracle:
    """Any bytes: cut by `regex` on text with escaped bytes, merged by the library's BPE model.

    Only for texts of PLAIN_CHARACTERS between the invalid bytes: `regex` and unicodedata have
    Unicode tables of their own. Added tokens are not looked for.
    """

    def __init__(self, value: dict[str, Any]) -> None:
        self._nfc = value["normalizer"] is not None
        steps = value["pre_tokenizer"].get("pretokenizers", [value["pre_tokenizer"]])
        self._digits_apart = steps[0]["type"] == "Digits"
        split = steps[0]["type"] == "Split"
        self._pattern = regex.compile(steps[0]["pattern"]["Regex"] if split else GPT2_PATTERN)
        self._model = Tokenizer.from_str(json.dumps({**value, "added_tokens": []})).model
        self._spelling = _spelling()

    def encode(self, data: bytes) -> list[int]:
        """Token ids of `data`."""
        text = data.decode("utf-8", "surrogateescape")
        if self._nfc:
            # Escaped bytes are starters that take no part in composition.
            text = unicodedata.normalize("NFC", text)
        stretches = regex.split(r"(\p{N})", text) if self._digits_apart else [text]
        pieces = [piece for stretch in stretches for piece in self._pattern.findall(stretch)]
        assert "".join(pieces) == text
        return [
            token.id
            for piece in pieces
            for token in self._model.tokenize(
                "".join(self._spelling[byte] for byte in piece.encode("utf-8", "surrogateescape"))
            )
        ]
