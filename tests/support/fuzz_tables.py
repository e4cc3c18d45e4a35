"""The tokenizers that the fuzz harness holds: together they reach every rule of the engine's."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from bitnet.seal.sources import build_root
from bitnet.tokenizer import TokenizerTables, compile_tables, compile_tokenizer, emit_cpp
from bitnet.tokenizer.byte_level import CHARACTER_OF_BYTE
from bitnet.tokenizer.chat import compile_chat
from bitnet.tokenizer.chat_template import ChatTemplate
from bitnet.tokenizer.source import parse_tokenizer
from tests.support.engine import DEMO_TOKENIZER
from tests.support.tokenizer_small import FILE, small_json

__all__ = ["fuzz_tables"]

# Text of the template touches the messages: a mark composes with a letter across the seam, digits
# and spaces run on, and a message is trimmed beside one that is not.
_COMPOSED = (
    "{% for m in messages %}<|begin|>{{ m.role }} e{{ m.content | trim }}\u0301a<|end|>\n"
    "{% endfor %}<|user|> 12"
)
# No system message, so that all room for literal text is used where there is one message.
_DIGITS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>\u1100{{ m.content }}1 {% endif %}"
    "{% endfor %}<|end|>"
)
_GAPS = (
    "{% for m in messages %}{% if m.role == 'system' %} the {{ m.content | trim }} 1{% else %}"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}q"
)
# Two that no merge and no other byte needs, control bytes, and the bytes that begin most sequences
# of two and of four.
_DROPPED = (*b"qZ\0\x7f", 0xC2, 0xCC, 0xF0, 0xF5)


@functools.cache
def fuzz_tables() -> Path:
    """Returns a folder with the .inc files that tests/fuzz/tokenizer.cc includes."""
    tables = {
        "demo": compile_tokenizer(DEMO_TOKENIZER),
        "composed": _compile(_normalized("qwen35"), _COMPOSED),
        "digits": _compile(_normalized("smollm2"), _DIGITS),
        "plain": _compile(_with_begin(small_json("gpt2"))),
        "gaps": _compile(_without_bytes(small_json("llama3")), _GAPS),
    }
    texts = {name: emit_cpp(value) for name, value in tables.items()}
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    folder = build_root() / "tests" / "tokenizer" / digest
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.inc").write_text(text, encoding="utf-8")
    return folder


def _compile(value: dict[str, Any], template: str = "") -> TokenizerTables:
    source = parse_tokenizer(json.dumps(value).encode(), file=FILE)
    chat = compile_chat(ChatTemplate(template, "a test", {}), source) if template else None
    return compile_tables(source, chat)


def _normalized(family: str) -> dict[str, Any]:
    return small_json(family) | {"normalizer": {"type": "NFC"}}


def _with_begin(value: dict[str, Any]) -> dict[str, Any]:
    """The file puts a token before a text."""
    begin = value["added_tokens"][0]
    token = {"id": begin["content"], "ids": [begin["id"]], "tokens": [begin["content"]]}
    value["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": begin["content"], "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {begin["content"]: token},
    }
    return value


def _without_bytes(value: dict[str, Any]) -> dict[str, Any]:
    """Some bytes have no token, but one entry is made of them and is taken as a whole."""
    dropped = {CHARACTER_OF_BYTE[byte] for byte in _DROPPED}
    model = value["model"]
    kept = [token for token in model["vocab"] if token not in dropped] + ["qZ"]
    model["vocab"] = {token: index for index, token in enumerate(kept)}
    model["ignore_merges"] = True
    for index, token in enumerate(value["added_tokens"]):
        token["id"] = len(kept) + index
    return value
