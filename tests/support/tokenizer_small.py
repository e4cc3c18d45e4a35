"""A tokenizer.json of some three hundred entries, quick to read, to change and to compile."""

import copy
import json
from pathlib import Path
from typing import Any, Final

from bitnet.tokenizer import TokenizerTables, compile_tables
from bitnet.tokenizer.byte_level import CHARACTER_OF_BYTE
from bitnet.tokenizer.source import parse_tokenizer
from tests.support.vocabularies import PRE_TOKENIZERS, tokenizer_json

__all__ = ["FILE", "compile_json", "small_json"]

FILE: Final = Path("tokenizer.json")
_MERGES: Final = (
    ("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("o", "r"), ("Ġw", "or"),
    ("l", "d"), ("Ġwor", "ld"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("1", "2"), ("12", "3"), ("Ċ", "Ċ"),
    ("Ã", "©"), ("a", "a"), ("aa", "aa"), ("'", "s"), ("t", "h"), ("th", "e"), ("Ġ", "the"),
    # Merges of invalid bytes with a letter show whether a piece was cut between them.
    *((CHARACTER_OF_BYTE[byte], "a") for byte in (0x80, 0xAF, 0xBF, 0xC3, 0xFF)),
)  # fmt: skip


def small_json(family: str = "llama3") -> dict[str, Any]:
    """A value of the caller's own, with the pre-tokenizer of a family."""
    vocabulary = {character: index for index, character in enumerate(CHARACTER_OF_BYTE)}
    for left, right in _MERGES:
        vocabulary[left + right] = len(vocabulary)
    merges = [[left, right] for left, right in _MERGES]
    value = tokenizer_json(
        vocabulary, merges, PRE_TOKENIZERS[family], ["<|begin|>", "<|end|>", "<|user|>"]
    )
    return copy.deepcopy(value)


def compile_json(value: Any) -> TokenizerTables:
    """Tables of a tokenizer.json that is given as a value."""
    return compile_tables(parse_tokenizer(json.dumps(value).encode(), file=FILE))
