"""One hash for all: the logits on every instruction set, thread count, chunk and architecture.

Run as a program (`make exactness`) it takes 200 prompts × 64 positions; the test beside it takes
the part that is also run under emulation, 8 prompts × 32 positions.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bitnet.checkpoint import open_checkpoint
from bitnet.quantize import open_model, write_model
from bitnet.reference import Reference
from bitnet.seal.sources import PROGRAMS, Program, build_root, engine_root
from bitnet.seal.toolchain import Target, find_compiler, host_arch, plan, run
from tests.support.engine import available_isas

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo"
LOGITS = Program("logits", "../tests/engine/logits_main.cc", PROGRAMS["library"].parts)

THREADS = (1, 2, 3)
CHUNKS = (1, 7, 64)
FULL = (200, 64)
SMALL = (8, 32)
KV_CACHES: Final = ("f32", "f16", "int8")  # by their numbers in format::KvCacheKind
ISAS = {"x86_64": ("ref", "avx2", "avx512vnni"), "aarch64": ("ref", "neon", "dotprod", "i8mm")}


KvCache = Literal["f32", "f16", "int8"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to compute the same logits."""

    arch: str
    emulator: tuple[str, ...]
    isa: str
    threads: int
    chunk: int
    kv_cache: KvCache = "f32"

    @property
    def machine(self) -> str:
        """Where it runs, for people."""
        return (
            "native"
            if not self.emulator
            else " ".join(part for part in self.emulator if part != "-cpu")
        )


def build_program(arch: str) -> Path:
    """Builds the test program that prints raw logits."""
    engine = engine_root()
    commands = plan(
        LOGITS, Target(arch), engine=engine, build=build_root(), compiler=str(find_compiler())
    )
    return run(commands, directory=engine)


def sequences(count: int, positions: int) -> list[list[int]]:
    """Token ids: requests in the model's template one after another, cut to `positions`."""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    lines = (DEMO / "prompts.txt").read_text(encoding="utf-8").splitlines()
    texts = [f"<|user|>{line}<|end|><|assistant|>" for line in lines]
    ids = [tokenizer.encode(text).ids for text in texts]
    result = []
    for index in range(count):
        joined = list(
            itertools.chain.from_iterable(ids[(index + step) % len(ids)] for step in range(32))
        )
        assert len(joined) >= positions
        result.append(joined[:positions])
    return result


def command(case: Case, model: Path) -> list[str]:
    """Returns the argument list of a case."""
    program = build_program(case.arch)
    return [
        *case.emulator,
        str(program),
        str(model),
        case.isa,
        str(case.threads),
        str(case.chunk),
        "64",
        str(KV_CACHES.index(case.kv_cache)),
    ]


def compute(case: Case, model: Path, ids: Sequence[Sequence[int]]) -> bytes:
    """Returns the raw logits of all sequences."""
    data = b"".join(struct.pack(f"<{len(row) + 1}I", len(row), *row) for row in ids)
    result = subprocess.run(
        command(case, model), input=data, capture_output=True, check=False, timeout=900
    )
    if result.returncode != 0:
        raise RuntimeError(f"{case}: exit code {result.returncode}: {result.stderr.decode()}")
    return result.stdout


def reference_logits(
    model: Path, ids: Sequence[Sequence[int]], kv_cache: KvCache = "f32"
) -> npt.NDArray[np.float32]:
    """Returns the same logits from the NumPy reference."""
    with open_model(model) as opened:
        reference = Reference(opened, kv_cache=kv_cache)
        return np.concatenate([reference.logits(row) for row in ids])


def native_cases() -> Iterator[Case]:
    """Yields every combination on a host of this architecture."""
    arch = host_arch()
    for isa, threads, chunk in itertools.product(ISAS[arch], THREADS, CHUNKS):
        yield Case(arch, (), isa, threads, chunk)


def runs_here(case: Case) -> bool:
    """Returns whether this processor has what a native case needs; an emulated one has it."""
    return bool(case.emulator) or case.isa in available_isas()


def emulated_cases() -> Iterator[Case]:
    """Yields the other architecture, and this one without its vector extensions."""
    if host_arch() == "x86_64":
        yield Case("x86_64", ("qemu-x86_64-static", "-cpu", "Nehalem"), "ref", 1, 64)
        yield Case("x86_64", ("qemu-x86_64-static", "-cpu", "Nehalem"), "auto", 1, 7)
        for isa in ISAS["aarch64"]:
            yield Case("aarch64", ("qemu-aarch64-static", "-cpu", "max"), isa, 1, 64)
        yield Case("aarch64", ("qemu-aarch64-static", "-cpu", "max"), "dotprod", 3, 7)
        yield Case("aarch64", ("qemu-aarch64-static", "-cpu", "cortex-a53"), "auto", 2, 1)


def kv_cache_cases(kind: KvCache) -> Iterator[Case]:
    """Yields every table once with another kind of cache: natively, and emulated for aarch64."""
    arch = host_arch()
    for isa in ISAS[arch]:
        yield Case(arch, (), isa, 3, 7, kind)
    if arch == "x86_64":
        for isa in ("neon", "dotprod"):
            yield Case("aarch64", ("qemu-aarch64-static", "-cpu", "max"), isa, 1, 64, kind)


def equals_reference(case: Case, model: Path, ids: Sequence[Sequence[int]]) -> bool:
    """Prints and returns whether a case equals the NumPy reference bit by bit."""
    own = np.frombuffer(compute(case, model, ids), np.float32)
    theirs = reference_logits(model, ids, case.kv_cache).reshape(-1)
    equal = bool((own.view(np.uint32) == theirs.view(np.uint32)).all())
    print(f"\nNumPy reference: {'bit-equal' if equal else 'DIFFERS'} on {own.size} logits")
    return equal


def make_model(directory: Path) -> Path:
    """Writes the demo model's model.bin."""
    path = directory / "model.bin"
    with open_checkpoint(DEMO) as checkpoint:
        write_model(checkpoint, path, tokenizer=DEMO / "tokenizer.json")
    return path


def check(
    cases: Sequence[Case],
    model: Path,
    ids: Sequence[Sequence[int]],
    title: str,
    rows: list[dict[str, object]],
) -> bool:
    """Runs the cases, prints a row for each; returns whether all hashes are equal."""
    print(f"\n{title}: {len(ids)} prompts x {len(ids[0])} positions")
    print(f"{'machine':<32} {'isa':<11} {'threads':>7} {'chunk':>5} {'seconds':>8}  sha384")
    first = None
    same = True
    for case in cases:
        start = time.perf_counter()
        digest = hashlib.sha384(compute(case, model, ids)).hexdigest()
        seconds = time.perf_counter() - start
        first = first or digest
        same &= digest == first
        mark = "" if digest == first else "  DIFFERS"
        what = f"{case.machine:<32} {case.isa:<11} {case.threads:>7} {case.chunk:>5}"
        print(f"{what} {seconds:>8.2f}  {digest[:32]}…{mark}", flush=True)
        rows.append(
            {
                **dataclasses.asdict(case),
                "prompts": len(ids),
                "positions": len(ids[0]),
                "sha384": digest,
            }
        )
    return same


def main() -> int:
    """Prints the table and the verdict; exit code 1 if any hash differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows as JSON lines to this file")
    parser.add_argument(
        "--small", action="store_true", help="8 prompts x 32 positions natively too"
    )
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as directory:
        model = make_model(Path(directory))
        native = list(filter(runs_here, native_cases()))
        lacking = [isa for isa in ISAS[host_arch()] if isa not in available_isas()]
        print(f"tables that this processor cannot run: {', '.join(lacking) or 'none'}")
        small = sequences(*SMALL)
        full = small if arguments.small else sequences(*FULL)
        same = check(native, model, full, "native", rows)
        same &= check(
            [native[0], *emulated_cases()], model, small, "emulated, beside the native hash", rows
        )
        same &= equals_reference(native[0], model, small)
        for kind in KV_CACHES[1:]:
            kept = list(filter(runs_here, kv_cache_cases(kind)))
            same &= check(kept, model, small, f"KV cache in {kind}", rows)
            same &= equals_reference(kept[0], model, small)
    if arguments.json is not None:
        arguments.json.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    verdict = "one hash for all of a kind of cache" if same else "NOT EXACT"
    print(f"verdict: {verdict} ({len(rows)} runs)")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
