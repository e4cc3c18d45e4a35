"""Ten thousand random mutations of a checkpoint: a ToolkitError or a complete model.bin."""

import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.errors import ToolkitError
from bitnet.quantize import open_model, write_model
from tests.support.checkpoints import encode_file, make_checkpoint

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# What a hostile hand would put in place of a value.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 63) - 1,
    1 << 64, 10**300, 0.0, -0.0, 0.5, 1e-300, 1e300, "", "F32", "bitnet", "llama", "../x",
    "\ud800", "\x1b[2J", "9" * 400, [], [0], [0, 0], [[[]]], {}, {"a": {}},
    {"rope_type": "yarn"}, {"quant_method": "x"},
)  # fmt: skip


def replace_somewhere(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one place in it changed, dropped or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        copy = dict(value)
        action = rng.random()
        if action < 0.1:
            del copy[key]
        elif action < 0.2:
            copy[rng.choice(["x", "bias", key + "_", "rope_scaling"])] = copy.pop(key)
        else:
            copy[key] = replace_somewhere(rng, value[key])
        return copy
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], replace_somewhere(rng, value[place]), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice([-24, -4, -1, 1, 4, 24, 1 << 32, -(1 << 32)])
    return rng.choice(VALUES)


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    value = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        value = replace_somewhere(rng, value)
    return json.dumps(value).encode()


def mutate_header(rng: random.Random, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = mutate_json(rng, data[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut out, doubled or appended, more often near the start of the file."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        limit = len(result) if rng.random() < 0.3 else min(len(result), 600)
        place = rng.randrange(limit) if limit else 0
        action = rng.randrange(5)
        if action == 0:
            del result[place:]
        elif action == 1:
            del result[place : place + rng.randrange(1, 9)]
        elif action == 2:
            result[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif action == 3:
            result[place:place] = result[place : place + 64]
        elif result:
            result[min(place, len(result) - 1)] = rng.randrange(256)
    return bytes(result)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A scratch directory in memory where the host has one: thousands of small files."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="mutations-", dir=memory) as name:
        yield Path(name)


def check_outcome(source: Path, output: Path) -> bool:
    """Converts; True where that worked and gave a complete file. Anything unexpected raises."""
    try:
        with open_checkpoint(source) as checkpoint:
            write_model(checkpoint, output)
    except ToolkitError as error:
        assert error.message
        assert list(output.parent.iterdir()) == []
        return False
    with open_model(output) as model:
        model.verify()
    output.unlink()
    assert list(output.parent.iterdir()) == []
    return True


CASES: list[tuple[str, str, Callable[[random.Random, bytes], bytes], int]] = [
    # form of the checkpoint, file, mutation, how often
    ("autobitlinear", SINGLE, mutate_header, 2500),
    ("autobitlinear", SINGLE, mutate_bytes, 1500),
    ("online", SINGLE, mutate_bytes, 1000),
    ("autobitlinear", "config.json", mutate_json, 2500),
    ("autobitlinear", "config.json", mutate_bytes, 1000),
    ("autobitlinear", "generation_config.json", mutate_json, 500),
    ("sharded", INDEX, mutate_json, 700),
    ("sharded", INDEX, mutate_bytes, 300),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_checkpoint_random_mutations_end_in_a_named_error(directory: Path, case: int) -> None:
    """Broken, some crafted file would crash the converter, hang it, or leave half a model."""
    form, name, mutate, count = CASES[case]
    tiny = make_checkpoint(
        form="bitlinear" if form == "sharded" else form,
        layers=1,
        hidden=8,
        heads=2,
        intermediate=8,
        vocab=9,
    )
    tiny.generation = {"eos_token_id": [2, 3], "bos_token_id": 1}
    source, output = directory / f"c{case}", directory / f"o{case}" / "m.bin"
    output.parent.mkdir()
    (tiny.write_sharded if form == "sharded" else tiny.write)(source)
    original = (source / name).read_bytes()
    assert check_outcome(source, output)
    rng = random.Random(case)
    done = sum(
        check_outcome(source, output)
        for _ in range(count)
        if (source / name).write_bytes(mutate(rng, original)) >= 0
    )
    assert done < count  # most mutations are refused; a run in which none is tests nothing


def test_checkpoint_mutation_count_is_as_promised() -> None:
    """Broken, the number in the documentation would be wrong."""
    assert sum(count for _, _, _, count in CASES) == 10_000


def test_checkpoint_every_truncation_is_refused(directory: Path) -> None:
    """Broken, a download that stopped would become a model."""
    tiny = make_checkpoint(layers=1, hidden=8, heads=2, intermediate=8, vocab=9)
    source, output = directory / "t", directory / "to" / "m.bin"
    output.parent.mkdir()
    tiny.write(source)
    data = encode_file(tiny.tensors)
    for length in range(len(data)):
        (source / SINGLE).write_bytes(data[:length])
        assert not check_outcome(source, output)
