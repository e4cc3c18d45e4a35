"""The memory that a run needs beside weights and cache, by the engine's own plan."""

import functools
import subprocess
from pathlib import Path

import pytest

from bitnet.measure.geometry import GEOMETRIES
from bitnet.seal import toolchain
from bitnet.seal.sources import PROGRAMS, Program, build_root, engine_root


@functools.cache
def program() -> Path:
    """Returns the program that plans."""
    commands = toolchain.plan(
        Program("arena-plan", "../tests/engine/arena_plan_main.cc", PROGRAMS["library"].parts),
        toolchain.Target(toolchain.host_arch()),
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )
    return toolchain.run(commands, directory=engine_root())


@pytest.mark.parametrize(
    ("geometry", "threads", "beside_max"),
    [
        ("bitnet-2b-4t", 1, 4.5e6),
        ("bitnet-2b-4t", 2, 4.5e6),
        ("bitnet-2b-4t", 8, 5.8e6),  # from three on the scores of all threads exceed the head
        ("demo", 1, 0.5e6),
        ("demo", 8, 0.8e6),
    ],
)
def test_plan_beside_the_cache_is_well_below_the_promise(
    geometry: str, threads: int, beside_max: float
) -> None:
    """If this fails, weights, cache and 8 MB are no longer enough, or soon will not be."""
    spec = GEOMETRIES[geometry]
    context = min(4096, spec.context_max)
    numbers = (
        *(spec.hidden_size, spec.intermediate_size, spec.layer_count, spec.head_count),
        *(spec.kv_head_count, spec.head_dim, spec.vocab_size, context, 64, threads),
    )
    answer = subprocess.run(
        [str(program()), *map(str, numbers)], capture_output=True, check=True, text=True
    ).stdout
    cache, beside = map(int, answer.split())
    assert cache == 2 * 2 * spec.layer_count * spec.kv_head_count * spec.head_dim * context
    assert 0 < beside <= beside_max
