"""What is compared: our engine with several kernel tables, and its peers, with their goals."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitnet.checkpoint import ModelSpec
from bitnet.cli import render
from bitnet.errors import UsageError
from bitnet.measure.programs import DecodeProgram, SpeedProgram
from bitnet.measure.token_cost import token_cost
from bitnet.quantize import open_model

__all__ = ["PEERS", "Engine", "Goal", "Open", "find_peers", "other_engine", "own_engine"]

Progress = Callable[[str, int, int], None] | None
Open = Callable[[int], SpeedProgram]
"""Starts an engine with a number of threads."""

_HERE: Final = Path(__file__).resolve().parent
_PREFILL_CHUNK: Final = 64
_LAYOUT_VERSION: Final = 1  # part of the names of files; raised when they are laid out otherwise
KV_CACHE: Final = "f16"
WEIGHTS: Final = "resident"  # as `bitnet config` has it for models of this size


@dataclass(frozen=True)
class Goal:
    """How many times as fast ours is to be."""

    decode: float
    prefill: float


@dataclass(frozen=True)
class Engine:
    """One engine on one model.

    Attributes:
        token_bytes: What decoding a token at a position must read; None where it is not known.
        goal: Of our engine against it; None for our own.
        memory_bytes: What it may take: weights, keys and values; None for peers.
        prefill_rounds_max: In how many rounds prefill is measured at most; slow ones cost minutes.
    """

    name: str
    open: Open
    token_bytes: Callable[[float], float] | None
    goal: Goal | None = None
    prefill_rounds_max: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class _Peer:
    goal: Goal
    prefill_rounds_max: int | None = None


_TERNARY_GOAL: Final = Goal(2, 3)
# Q2_0 has no kernel for x86 in llama.cpp and takes seconds a token, so it is left out unless named.
PEERS: Final = {
    "llama-q4_k_m": _Peer(Goal(3, 2)),
    "llama-tq2_0": _Peer(_TERNARY_GOAL),
    "llama-tq1_0": _Peer(_TERNARY_GOAL, prefill_rounds_max=1),
    "llama-q2_0": _Peer(_TERNARY_GOAL, prefill_rounds_max=0),
    "onnx-int4": _Peer(Goal(3, 2)),
}
_OTHER_GOAL: Final = Goal(1.6, 1.3)


def own_engine(isa: str, program: Path, model: Path, spec: ModelSpec, context: int) -> Engine:
    """Returns our engine over a model.bin with one kernel table."""
    with open_model(model) as opened:
        cost = token_cost(spec, opened.header.layout, KV_CACHE)

    def start(threads: int) -> SpeedProgram:
        return DecodeProgram(
            program,
            model,
            isa=isa,
            threads=threads,
            chunk=_PREFILL_CHUNK,
            context=context,
            kv_cache=KV_CACHE,
            weights=WEIGHTS,
        )

    memory_bytes = model.stat().st_size + context * cost.kv_position_bytes
    return Engine(f"bitnet-{isa}", start, cost.decode_bytes, memory_bytes=memory_bytes)


def other_engine(name: str, command: Sequence[str]) -> Engine:
    """Returns an engine that is a program of the user with the commands of bench/decode_main.cc.

    `{threads}` in its arguments is replaced. It may tell its bytes a token as `token_bytes`.
    """

    def start(threads: int) -> SpeedProgram:
        arguments = [each.replace("{threads}", str(threads)) for each in command[1:]]
        return SpeedProgram(Path(command[0]), arguments, name=name)

    return Engine(name, start, None, _OTHER_GOAL)


def _python_program(script: str, name: str, model: Path, context: int) -> Open:
    def start(threads: int) -> SpeedProgram:
        arguments = [str(_HERE / script), str(model), str(threads), str(context)]
        return SpeedProgram(Path(sys.executable), arguments, name=name)

    return start


def _model_functions(
    library: str, form: str, spec: ModelSpec, seed: int
) -> tuple[Callable[[Path, Progress], None], Callable[[float], float]]:
    """Returns what writes a peer's model, and the bytes of a token at a position.

    The packages of a peer are imported only where it takes part.
    """
    if library == "llama":
        from bench.peers import gguf_model

        return (
            lambda path, progress: gguf_model.write_gguf(spec, form, path, seed, progress),
            lambda position: gguf_model.token_bytes(spec, form, position),
        )
    from bench.peers import onnx_model

    return (
        lambda path, progress: onnx_model.write_onnx(spec, path, seed, progress),
        lambda _position: onnx_model.token_bytes(spec),
    )


def _peer_engine(
    name: str, stem: str, spec: ModelSpec, seed: int, context: int, directory: Path
) -> Engine:
    peer = PEERS[name]
    library, _, form = name.partition("-")
    path = directory / f"{stem}-{form}.{'gguf' if library == 'llama' else 'onnx'}"
    write, token_bytes = _model_functions(library, form, spec, seed)
    if not path.is_file():
        with render.progress_bar(f"model {name}") as progress:
            write(path, progress)

    start = _python_program(f"{library}_program.py", name, path, context)
    return Engine(name, start, token_bytes, peer.goal, peer.prefill_rounds_max)


def find_peers(
    names: Sequence[str], geometry: str, spec: ModelSpec, seed: int, context: int, directory: Path
) -> list[Engine]:
    """Returns the peers of those names; their models are written first where they are missing.

    Raises:
        UsageError: There is no peer of that name.
        ToolchainError: The disk has no room for a model, or it cannot be written.
    """
    for name in names:
        if name not in PEERS:
            raise UsageError(f"peer is unknown: `{name}`", hint=f"choose from {', '.join(PEERS)}")
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{geometry}-{seed}-v{_LAYOUT_VERSION}"
    return [_peer_engine(name, stem, spec, seed, context, directory) for name in names]
