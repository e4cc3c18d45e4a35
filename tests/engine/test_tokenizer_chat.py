"""Conversations in the C++ tokenizer against transformers' own chat templates."""

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

from transformers import PreTrainedTokenizerFast

from bitnet.tokenizer import TokenizerTables, compile_tokenizer, encode_chat
from tests.support import vocabularies
from tests.support.tokenizer_driver import Driver, DriverError, build_driver
from tests.support.tokenizer_oracle import BytesOracle, family_json
from tests.support.tokenizer_texts import bulk_texts

NO_CHAT_TEMPLATE = 47
FAMILIES = ("demo", "llama3", "qwen3", "smollm2")
WITH_SYSTEM = ("llama3", "qwen3", "smollm2")


def tokenizer_file(family: str) -> Path:
    return vocabularies.DEMO if family == "demo" else vocabularies.vocabulary(family)


@functools.cache
def compiled(family: str) -> TokenizerTables:
    return compile_tokenizer(tokenizer_file(family))


@functools.cache
def driver_of(family: str) -> Driver:
    return build_driver(compiled(family))


@functools.cache
def transformers_of(family: str) -> Any:
    file = tokenizer_file(family)
    config = json.loads((file.parent / "tokenizer_config.json").read_text())
    names = {key: config[key] for key in ("bos_token", "eos_token", "pad_token") if config.get(key)}
    return PreTrainedTokenizerFast(
        tokenizer_file=str(file), chat_template=config["chat_template"], **names
    )


def expected_ids(family: str, system: str, user: str) -> list[int]:
    messages = [{"role": "user", "content": user}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    rendered = transformers_of(family).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return list(transformers_of(family)(rendered, add_special_tokens=False)["input_ids"])


def conversations(count: int, *, system: bool) -> list[tuple[str, str]]:
    texts = bulk_texts(2 * count, seed=21, specials=[])
    # A lone `<|` next to template text may complete no token; texts that could are left to the next
    # test.
    texts = [text.replace("<", "(").replace("|", "!") for text in texts]
    return [
        (
            texts[2 * i] + "s" if system else "",
            f"{texts[2 * i + 1]} q ?" if i % 3 else f"\n {texts[2 * i + 1]}\u3000",
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("system", [False, True], ids=["user", "system"])
@pytest.mark.parametrize("family", FAMILIES)
def test_encode_chat_equals_transformers(family: str, system: bool) -> None:
    """A wrong template makes a model answer worse, or never stop."""
    if system and family not in WITH_SYSTEM:
        check_system_message_is_refused(family)
        return
    talks = conversations(400, system=system)
    found = driver_of(family).encode_chat([(s.encode(), u.encode()) for s, u in talks])
    for (system_text, user), ids in zip(talks, found, strict=True):
        assert ids == expected_ids(family, system_text, user), f"{system_text!a} / {user!a}"


def check_system_message_is_refused(family: str) -> None:
    """A template that leaves the system message out must not do so silently."""
    with pytest.raises(DriverError) as caught:
        driver_of(family).encode_chat([(b"be brief", b"hello")])
    assert caught.value.status == NO_CHAT_TEMPLATE


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_chat_with_control_tokens_in_a_message_keeps_them_text(family: str) -> None:
    """A user who types a control token must not be able to end the turn or speak as the system."""
    value = family_json(family)
    controls = [token["content"] for token in value["added_tokens"]]
    ids_of_controls = {token["id"] for token in value["added_tokens"]}
    (frame,) = driver_of(family).encode_chat([(b"", b"x")])
    for control in controls[:40]:
        (ids,) = driver_of(family).encode_chat([(b"", f"a {control} b".encode())])
        assert [i for i in ids if i in ids_of_controls] == [
            i for i in frame if i in ids_of_controls
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_chat_with_invalid_bytes_merges_them_with_the_template(family: str) -> None:
    """Text of the template that touches a message is tokenised with it, whatever its bytes are."""
    value = family_json(family)
    ids_of = {token["content"]: token["id"] for token in value["added_tokens"]}
    controls = re.compile("(" + "|".join(map(re.escape, sorted(ids_of, reverse=True))) + ")")
    oracle = BytesOracle(value)
    for message in (b"\xff\xfe 1", b"\x80", b"a\xc3 \xe2\x82", b" \xed\xa0\x80 "):
        rendered = transformers_of(family).apply_chat_template(
            [{"role": "user", "content": message.decode("utf-8", "surrogateescape")}],
            tokenize=False,
            add_generation_prompt=True,
        )
        expected: list[int] = []
        for piece in filter(None, controls.split(rendered)):
            data = piece.encode("utf-8", "surrogateescape")
            expected += [ids_of[piece]] if piece in ids_of else oracle.encode(data)
        assert driver_of(family).encode_chat([(b"", message)]) == [expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_chat_of_the_interpreter_equals_the_engine(family: str) -> None:
    """Tools that use the Python side must see the prompt that the engine sees."""
    talks = conversations(30, system=family in WITH_SYSTEM)
    found = driver_of(family).encode_chat([(s.encode(), u.encode()) for s, u in talks])
    for (system, user), ids in zip(talks, found, strict=True):
        assert encode_chat(compiled(family), user, system) == ids


def test_encode_chat_without_template_is_refused() -> None:
    """A tokenizer compiled without a template must say so instead of sending bare text."""
    tables = compile_tokenizer(vocabularies.DEMO, chat=False)
    with pytest.raises(DriverError) as caught:
        build_driver(tables).encode_chat([(b"", b"hello")])
    assert caught.value.status == NO_CHAT_TEMPLATE
