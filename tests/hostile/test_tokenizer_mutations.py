"""Ten thousand damaged tokenizers: each is compiled or refused by name, nothing is left over."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitnet.cli import render, tokenizer2cpp
from bitnet.errors import TokenizerError
from bitnet.tokenizer import compile_tables, emit_cpp
from bitnet.tokenizer.source import parse_tokenizer
from tests.support.tokenizer_small import FILE, small_json

MUTATION_COUNT = 10_000
COMMAND_COUNT = 150
FAMILIES = ("llama3", "qwen35", "gpt2", "smollm2")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        keys = container.keys() if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found


def mutate_value(generator: random.Random, value: dict[str, Any]) -> bytes:
    """Replaces, removes, renames or copies members."""
    for _ in range(generator.choice((1, 1, 2, 4))):
        every = places(value)
        # Half of the time near the top, where the structure is and not the vocabulary.
        container, key = generator.choice(every[: 60 if generator.random() < 0.5 else len(every)])
        action = generator.randrange(4)
        if action == 0:
            container[key] = generator.choice(
                (
                    None,
                    True,
                    False,
                    0,
                    -1,
                    1 << 40,
                    0.5,
                    "",
                    "x",
                    "\ud800",
                    [],
                    {},
                    [[]],
                    {"type": "BPE"},
                )
            )
        elif action == 1:
            del container[key]
        elif action == 2:
            other, name = generator.choice(every)
            if name in other if isinstance(other, dict) else name < len(other):
                container[key] = copy.deepcopy(other[name])
        elif isinstance(container, dict):
            container[generator.choice(("type", "id", "x", "Ġ", "content", "é"))] = container.pop(
                key
            )
        else:
            container.append(copy.deepcopy(container[key]))
    return json.dumps(value, ensure_ascii=generator.random() < 0.5).encode("utf-8", "surrogatepass")


def mutate_bytes(generator: random.Random, data: bytes) -> bytes:
    """Flips, cuts, inserts and doubles bytes."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 8))):
        place = generator.randrange(len(changed) or 1)
        action = generator.randrange(5)
        if action == 0:
            changed[place : place + 1] = bytes([generator.randrange(256)])
        elif action == 1:
            del changed[place : place + generator.choice((1, 2, 30))]
        elif action == 2:
            changed[place:place] = generator.choice((b'"', b"{", b"}", b",", b"0", b"\\u", b"\xff"))
        elif action == 3:
            changed[place:place] = changed[place : place + generator.randrange(40)]
        else:
            del changed[place:]
            changed += data[place:] if generator.random() < 0.7 else b""
    return bytes(changed)


def mutations(count: int, seed: int) -> Iterator[bytes]:
    generator = random.Random(seed)
    originals = [small_json(family) for family in FAMILIES]
    for value in originals[::2]:
        value["normalizer"] = {"type": "NFC"}
    texts = [json.dumps(value).encode() for value in originals]
    for number in range(count):
        which = number % len(originals)
        if generator.random() < 0.6:
            yield mutate_value(generator, copy.deepcopy(originals[which]))
        else:
            yield mutate_bytes(generator, texts[which])


@pytest.mark.timeout(300)
def test_compile_of_mutations_gives_tables_or_a_named_error() -> None:
    """Any other exception is a traceback in front of a user, and a sign of a missing check."""
    compiled = refused = anonymous = 0
    for number, data in enumerate(mutations(MUTATION_COUNT, 1)):
        try:
            tables = compile_tables(parse_tokenizer(data, file=FILE))
        except TokenizerError as error:
            refused += 1
            anonymous += not error.message or not error.where
        else:
            compiled += 1
            if number % 20 == 0:
                assert "kTokenizerTables" in emit_cpp(tables)
    assert anonymous == 0
    # Both outcomes must be common, or the mutations test nothing.
    assert compiled > MUTATION_COUNT // 50
    assert refused > MUTATION_COUNT // 2


def test_command_on_mutations_writes_all_or_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A half-written tokenizer.inc could be compiled into a product."""
    app = render.create_app("x")
    tokenizer2cpp.register(app)
    source, output = tmp_path / "tokenizer.json", tmp_path / "out" / "tokenizer.inc"
    output.parent.mkdir()
    codes = set()
    for data in mutations(COMMAND_COUNT, 2):
        source.write_bytes(data)
        code = render.run_app(app, "tokenizer2cpp", [str(source), "--output", str(output)])
        codes.add(code)
        assert code in (0, 1), capsys.readouterr().err
        assert [path.name for path in output.parent.iterdir()] == (
            ["tokenizer.inc"] if code == 0 else []
        )
        output.unlink(missing_ok=True)
    assert codes == {0, 1}
