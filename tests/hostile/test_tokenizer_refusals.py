"""Every way in which a tokenizer.json or its chat template is refused, each by name and place."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet.errors import TokenizerError
from bitnet.tokenizer import compile_tokenizer
from bitnet.tokenizer.source import parse_tokenizer
from tests.support.tokenizer_small import FILE, compile_json, small_json

Change = Callable[[dict[str, Any]], Any]


def put(path: str, value: Any) -> Change:
    """A change that sets the member at a path such as `model.dropout` or `added_tokens.0.id`."""

    def change(root: dict[str, Any]) -> None:
        place: Any = root
        *folders, last = path.split(".")
        for key in folders:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[int(last) if isinstance(place, list) else last] = value

    return change


def drop(path: str) -> Change:
    """A change that removes the member at a path."""

    def change(root: dict[str, Any]) -> None:
        place: Any = root
        *folders, last = path.split(".")
        for key in folders:
            place = place[int(key)] if isinstance(place, list) else place[key]
        del place[last]

    return change


def append(path: str, value: Any) -> Change:
    """A change that appends to an array."""

    def change(root: dict[str, Any]) -> None:
        place: Any = root
        for key in path.split("."):
            place = place[key]
        place.append(value)

    return change


def special(content: str, token_id: int, **flags: bool) -> dict[str, Any]:
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": token_id, "content": content, **dict.fromkeys(names, False), **flags}


NEXT_ID = len(small_json()["model"]["vocab"]) + 3
NEXT_MERGE = f"$.model.merges[{len(small_json()['model']['merges'])}]"
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {
        "<|begin|>": {"id": "<|begin|>", "ids": [NEXT_ID - 3], "tokens": ["<|begin|>"]}
    },
}
SUFFIX = {**TEMPLATE, "single": TEMPLATE["single"][::-1]}
TWICE = {**TEMPLATE, "single": [TEMPLATE["single"][1]] * 2}
NO_TEXT = {**TEMPLATE, "single": TEMPLATE["single"][:1]}
PAIR_TEXT = {**TEMPLATE, "single": [{"Sequence": {"id": "B", "type_id": 0}}]}
NO_NAME = {**TEMPLATE, "special_tokens": {}}
OTHER_ID = {
    **TEMPLATE,
    "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [5], "tokens": ["x"]}},
}
TWO_KEYS = {**TEMPLATE, "single": [{**TEMPLATE["single"][0], **TEMPLATE["single"][1]}]}

REFUSALS: dict[str, tuple[Change, str, str]] = {
    "unknown-key": (put("surprise", 1), "key is unknown: `surprise`", "$"),
    "no-model": (drop("model"), "key is missing: `model`", "$"),
    "version": (put("version", "2.0"), "version is not 1.0", "$.version"),
    "truncation": (
        put("truncation", {"max_length": 5}),
        "`truncation` is not supported",
        "$.truncation",
    ),
    "padding": (put("padding", {"strategy": "Fixed"}), "`padding` is not supported", "$.padding"),
    "decoder-none": (put("decoder", None), "decoder is not ByteLevel", "$.decoder"),
    "decoder-other": (
        put("decoder", {"type": "WordPiece"}),
        "decoder is not ByteLevel",
        "$.decoder",
    ),
    "decoder-key": (put("decoder.x", 1), "key is unknown: `x`", "$.decoder"),
    "normalizer-nfkc": (
        put("normalizer", {"type": "NFKC"}),
        "normalizer is not supported",
        "$.normalizer",
    ),
    "normalizer-mixed": (
        put(
            "normalizer",
            {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        ),
        "normalizer is not supported",
        "$.normalizer",
    ),
    "normalizer-key": (
        put("normalizer", {"type": "NFC", "x": 1}),
        "key is unknown",
        "$.normalizer",
    ),
    "pre-tokenizer-none": (
        put("pre_tokenizer", None),
        "pre-tokenizer is missing",
        "$.pre_tokenizer",
    ),
    "pre-tokenizer-kind": (
        put("pre_tokenizer", {"type": "Whitespace"}),
        "pre-tokenizer is not supported",
        "$.pre_tokenizer",
    ),
    "pre-tokenizer-sequence": (
        put("pre_tokenizer.pretokenizers", [BYTE_LEVEL, BYTE_LEVEL]),
        "sequence of pre-tokenizers",
        "$.pre_tokenizer",
    ),
    "pattern": (
        put("pre_tokenizer.pretokenizers.0.pattern.Regex", r"\w+|\W"),
        "split pattern is not supported",
        "$.pre_tokenizer.pretokenizers[0].pattern.Regex",
    ),
    "pattern-string": (
        put("pre_tokenizer.pretokenizers.0.pattern", {"String": " "}),
        "key is unknown: `String`",
        "$.pre_tokenizer.pretokenizers[0].pattern",
    ),
    "split-behaviour": (
        put("pre_tokenizer.pretokenizers.0.behavior", "Removed"),
        "split behaviour is not supported",
        "$.pre_tokenizer.pretokenizers[0]",
    ),
    "split-inverted": (
        put("pre_tokenizer.pretokenizers.0.invert", True),
        "inverted split",
        "$.pre_tokenizer.pretokenizers[0].invert",
    ),
    "prefix-space": (
        put("pre_tokenizer.pretokenizers.1.add_prefix_space", True),
        "`add_prefix_space` is not supported",
        "$.pre_tokenizer.pretokenizers[1].add_prefix_space",
    ),
    "two-patterns": (
        put("pre_tokenizer.pretokenizers.1.use_regex", True),
        "`use_regex` must be false here",
        "$.pre_tokenizer.pretokenizers[1].use_regex",
    ),
    "no-pattern": (
        put("pre_tokenizer", {**BYTE_LEVEL, "use_regex": False}),
        "`use_regex` must be true here",
        "$.pre_tokenizer.use_regex",
    ),
    "digits-together": (
        put(
            "pre_tokenizer.pretokenizers",
            [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL],
        ),
        "runs of digits kept together",
        "$.pre_tokenizer.pretokenizers[0]",
    ),
    "post-processor": (
        put("post_processor", {"type": "BertProcessing"}),
        "post-processor is not supported",
        "$.post_processor",
    ),
    "post-processor-suffix": (
        put("post_processor", SUFFIX),
        "token after the text",
        "$.post_processor.single[1]",
    ),
    "post-processor-twice": (
        put("post_processor", TWICE),
        "the text exactly once",
        "$.post_processor.single[1]",
    ),
    "post-processor-no-text": (
        put("post_processor", NO_TEXT),
        "the text exactly once",
        "$.post_processor.single",
    ),
    "post-processor-pair": (
        put("post_processor", PAIR_TEXT),
        "the text exactly once",
        "$.post_processor.single[0]",
    ),
    "post-processor-name": (
        put("post_processor", NO_NAME),
        "names no special token",
        "$.post_processor.special_tokens",
    ),
    "post-processor-id": (
        put("post_processor", OTHER_ID),
        "not one token of the vocabulary",
        "$.post_processor.special_tokens",
    ),
    "post-processor-piece": (
        put("post_processor", TWO_KEYS),
        "not one of SpecialToken and Sequence",
        "$.post_processor.single[0]",
    ),
    "post-processor-templates": (
        put("post_processor", {"type": "Sequence", "processors": [TEMPLATE, TEMPLATE]}),
        "more than one template",
        "$.post_processor",
    ),
    "post-processor-nested": (
        put(
            "post_processor",
            {"type": "Sequence", "processors": [{"type": "Sequence", "processors": []}]},
        ),
        "sequence inside a sequence",
        "$.post_processor.processors[0]",
    ),
    "model-type": (put("model.type", "Unigram"), "model is not BPE", "$.model.type"),
    "model-key": (put("model.alpha", 0.1), "key is unknown: `alpha`", "$.model"),
    "dropout": (put("model.dropout", 0.1), "`dropout` is not supported", "$.model.dropout"),
    "fuse-unk": (put("model.fuse_unk", True), "`fuse_unk` is not supported", "$.model.fuse_unk"),
    "byte-fallback": (
        put("model.byte_fallback", True),
        "`byte_fallback` is not supported",
        "$.model.byte_fallback",
    ),
    "word-prefix": (
        put("model.continuing_subword_prefix", "##"),
        "`continuing_subword_prefix` is not supported",
        "$.model.continuing_subword_prefix",
    ),
    "word-suffix": (
        put("model.end_of_word_suffix", "</w>"),
        "`end_of_word_suffix` is not supported",
        "$.model.end_of_word_suffix",
    ),
    "ignore-merges-kind": (put("model.ignore_merges", 1), "not a boolean", "$.model.ignore_merges"),
    "vocabulary-kind": (put("model.vocab", []), "not an object", "$.model.vocab"),
    "vocabulary-empty": (
        put("model.vocab", {}),
        "number of entries is out of range",
        "$.model.vocab",
    ),
    "id-twice": (put("model.vocab.extra", 7), "id stands twice: 7", "$.model.vocab['extra']"),
    "id-range": (
        put("model.vocab.extra", 1 << 20),
        "integer is out of range",
        "$.model.vocab['extra']",
    ),
    "id-kind": (put("model.vocab.extra", 300.0), "not an integer", "$.model.vocab['extra']"),
    "entry-empty": (
        lambda root: root["model"]["vocab"].update({"": 300}),
        "vocabulary entry is empty",
        "$.model.vocab['']",
    ),
    "merges-kind": (put("model.merges", {}), "not an array", "$.model.merges"),
    "merge-kind": (put("model.merges.0", ["h"]), "merge is not a pair", "$.model.merges[0]"),
    "merge-text": (put("model.merges.0", "h e l"), "merge is not a pair", "$.model.merges[0]"),
    "merge-comment": (
        put("model.merges.0", "#version 0.2"),
        "merge is not a pair",
        "$.model.merges[0]",
    ),
    "merge-part": (
        put("model.merges.0", ["h", "nothing"]),
        "merge names no vocabulary entry",
        "$.model.merges[0]",
    ),
    "merge-result": (
        append("model.merges", ["h", "h"]),
        "merge names no vocabulary entry",
        NEXT_MERGE,
    ),
    "merge-twice": (
        append("model.merges", ["h", "e"]),
        "merge stands twice",
        NEXT_MERGE,
    ),
    "added-kind": (put("added_tokens", {}), "not an array", "$.added_tokens"),
    "added-flag-missing": (
        drop("added_tokens.0.lstrip"),
        "key is missing: `lstrip`",
        "$.added_tokens[0]",
    ),
    "added-flag-kind": (
        put("added_tokens.0.lstrip", 0),
        "not a boolean",
        "$.added_tokens[0].lstrip",
    ),
    "added-key": (put("added_tokens.0.x", 0), "key is unknown: `x`", "$.added_tokens[0]"),
    "added-empty": (
        put("added_tokens.0.content", ""),
        "length is out of range",
        "$.added_tokens[0].content",
    ),
    "added-long": (
        put("added_tokens.0.content", "x" * 257),
        "length is out of range",
        "$.added_tokens[0].content",
    ),
    "added-twice": (
        append("added_tokens", special("<|end|>", NEXT_ID)),
        "added token stands twice",
        "$.added_tokens[3]",
    ),
    "added-id": (
        put("added_tokens.1.id", 999),
        "another id than the `tokenizers` library",
        "$.added_tokens[1]",
    ),
    "added-overlap": (
        lambda root: root["added_tokens"].extend(
            [special("<r>", NEXT_ID, rstrip=True), special(" x", NEXT_ID + 1)]
        ),
        "added token begins with white space",
        "$.added_tokens[4]",
    ),
    "special-merged": (
        append("added_tokens", special("hello", 259, special=True)),
        "special token is also the result of a merge",
        "$.added_tokens[3]",
    ),
    "special-byte": (
        append("added_tokens", special("!", 33, special=True)),
        "special token is also a byte of the alphabet",
        "$.added_tokens[3]",
    ),
}


def refused(data: bytes) -> TokenizerError:
    with pytest.raises(TokenizerError) as caught:
        parse_tokenizer(data, file=FILE)
    return caught.value


@pytest.mark.parametrize("name", REFUSALS)
def test_load_of_what_tables_cannot_express_is_refused_by_name(name: str) -> None:
    """A file taken without its meaning would give other ids than its model was trained with."""
    change, message, place = REFUSALS[name]
    value = small_json()
    change(value)
    error = refused(json.dumps(value).encode())
    assert message in error.message
    assert any(fact.startswith(f"at {place}") for fact in error.where), error.where


TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not valid JSON"),
    "cut": (b'{"model": {', "is not valid JSON"),
    "not-utf8": (b'{"model": "\xff"}', "is not valid JSON"),
    "key-twice": (b'{"a": 1, "a": 2}', "is not valid JSON"),
    "nan": (b'{"a": NaN}', "is not valid JSON"),
    "infinite": (b'{"a": 1e999}', "is not valid JSON"),
    "long-integer": (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    "deep": (b"[" * 100_000, "is nested too deeply"),
    "array": (b"[]", "not an object"),
    "null": (b"null", "not an object"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_load_of_malformed_json_is_refused_by_name(name: str) -> None:
    """No parser's own exception may leave the package."""
    data, message = TEXTS[name]
    assert message in refused(data).message


def test_load_of_lone_surrogates_is_refused() -> None:
    """JSON can spell what no UTF-8 text holds; encoding it later would raise."""
    for path in ("model.vocab.\ud800", "added_tokens.0.content"):
        value = small_json()
        put(path, 300 if "vocab" in path else "\udfff")(value)
        assert "lone surrogate" in refused(json.dumps(value).encode()).message


def test_load_of_unknown_token_without_all_bytes_is_refused() -> None:
    """With a byte missing, the unknown token would appear in place of it."""
    value = small_json()
    value["model"]["unk_token"] = "<|end|>"
    parse_tokenizer(json.dumps(value).encode(), file=FILE)
    value["model"]["vocab"] = {k: v for k, v in value["model"]["vocab"].items() if v != 255}
    value["model"]["vocab"]["spare"] = 255
    assert "`unk_token` is not supported" in refused(json.dumps(value).encode()).message


def test_compile_of_equal_normalised_tokens_is_refused() -> None:
    """Two patterns of the same text would make the id depend on the order of a table."""
    value = small_json()
    value["normalizer"] = {"type": "NFC"}
    value["added_tokens"] += [
        special("\u00e9!", NEXT_ID, normalized=True),
        special("e\u0301!", NEXT_ID + 1, normalized=True),
    ]
    with pytest.raises(TokenizerError, match="same text after normalisation"):
        compile_json(value)


def test_load_of_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    """A wrong path, a directory without the file and a device must end in a named error."""
    for path in (tmp_path / "none.json", tmp_path, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(TokenizerError):
            compile_tokenizer(path)


# Configurations and chat templates.


def chat_error(folder: Path, template: str | None = None, **config: Any) -> TokenizerError:
    (folder / "tokenizer.json").write_text(json.dumps(small_json()))
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError) as caught:
        compile_tokenizer(folder)
    return caught.value


USER = "{{ messages[-1].content }}"
TEMPLATES = {
    "syntax": ("{% if %}", "chat template is malformed"),
    "raises": ("{{ raise_exception('no') }}", "template refuses: no"),
    "clock": (USER + "{{ strftime_now('%d') }}", "asks for the date of today"),
    "undefined": ("{{ nothing.at.all }}", "chat template fails: UndefinedError"),
    "type": ("{{ messages + 1 }}", "chat template fails: TypeError"),
    "attribute": (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "chat template fails: SecurityError",
    ),
    "no-user": ("fixed text", "does not show the user message exactly once"),
    "user-twice": (USER + USER, "does not show the user message exactly once"),
    "upper": ("{{ messages[-1].content | upper }}", "does not show the user message exactly once"),
    "replaces": (
        "{{ messages[-1].content | replace('</think>', '') }}",
        "does more than put fixed text",
    ),
    "left-trim": ("{{ messages[-1].content.lstrip() }}", "does more than put fixed text"),
    "length": (USER + "{{ messages[-1].content | length }}", "does more than put fixed text"),
    "branch": (
        "{% if messages[-1].content.startswith('Hello') %}x{% endif %}" + USER,
        "does more than put fixed text",
    ),
    "endless": (
        "{% for i in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}",
        "does not end",
    ),
    "endless-text": ("{% for i in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}", "text has no end"),
    "huge": ("{{ 'x' * 9999999999 }}", "operand of `*` is too large"),
    "surrogate": (USER + "{{ '\\ud800' }}", "text holds a lone surrogate"),
    "doubling": (
        "{% set ns = namespace(x='xxxxxxxxxxxxxxxx') %}"
        "{% for i in range(25) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}" + USER,
        "chat template fails: MemoryError",
    ),
    "nested": (
        "{% set ns = namespace(x='x') %}"
        "{% for i in range(25) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "chat template fails: MemoryError",
    ),
    "wide": ("{{ 'x' | center(400000000) }}", "chat template fails: MemoryError"),
    "wide-late": (
        "{{ messages[-1].role | center(400000000) }}",
        "chat template fails: MemoryError",
    ),
    "power": ("{{ 9 ** 9999999 }}", "operand of `**` is too large"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_compile_of_a_template_beyond_fixed_pieces_is_refused(name: str, tmp_path: Path) -> None:
    """A template taken for what it is not gives prompts that the model was not trained on."""
    template, message = TEMPLATES[name]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    error = chat_error(tmp_path, template)
    assert message in error.message
    assert error.hint is not None
    assert "chat_template.jinja" in error.hint
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    # What the hint says is a way out for every command.
    beside = tmp_path / "chat_template.jinja"
    beside.write_text("<|user|>" + USER)
    assert len(compile_tokenizer(tmp_path).chat_user) == 2 * 3
    for empty in ("", " \n"):
        beside.write_text(empty)
        assert compile_tokenizer(tmp_path).chat_user.size == 0


def test_compile_of_malformed_configurations_is_refused(tmp_path: Path) -> None:
    """The configuration beside a tokenizer is as untrusted as the tokenizer."""
    assert "not a string" in chat_error(tmp_path, bos_token=5, chat_template=USER).message
    assert "named `default`" in chat_error(
        tmp_path, chat_template=[{"name": "rag", "template": USER}]
    ).message  # fmt: skip
    assert "not an array" in chat_error(tmp_path, chat_template={"x": 1}).message
    assert "not supported" in chat_error(tmp_path, add_prefix_space=True).message
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(TokenizerError, match="not an object"):
        compile_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match="not UTF-8"):
        compile_tokenizer(tmp_path)


def test_compile_of_a_template_with_a_stripping_token_is_refused(tmp_path: Path) -> None:
    """A token that takes white space along would reach into the user's message."""
    value = small_json()
    value["added_tokens"][2]["rstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    (tmp_path / "chat_template.jinja").write_text("<|user|>" + USER)
    with pytest.raises(TokenizerError, match="depends on its neighbours"):
        compile_tokenizer(tmp_path)
