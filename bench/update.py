"""Verifies and installs a bundle of 1 GB, against coreutils, zstd and tar one after the other.

    python bench/update.py [--json] [--rounds N] [--folder DIR]

Both do the same work in turns on the same file: `bitnet-update apply` verifies signatures, hashes
the bundle, decompresses it, hashes every file, syncs it and switches; the tools run
`sha384sum BUNDLE`, then `zstd -dc BUNDLE | tar x`, and sync nothing. Peak memory is that of
`bitnet-update` (and of its self-test). In memory (/dev/shm) by default, so that no disk is timed.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table

from bench.record import machine
from bitnet.seal.toolchain import Target, build_program, host_arch
from tests.support.installation import Installation, make_release, root_file

__all__ = ["measure", "print_table"]

MODEL_BYTES = 1_000_000_000
ROUNDS = 5


def _ternary(count: int) -> bytes:
    """Returns random weights as they lie in model.bin: four codes of 0, 1 or 2 in a byte."""
    codes = np.array([a | b << 2 | c << 4 | d << 6
                      for a in range(3) for b in range(3) for c in range(3) for d in range(3)],
                     np.uint8)  # fmt: skip
    return codes[np.random.default_rng(1).integers(0, len(codes), count)].tobytes()


def _lay_down(folder: Path) -> tuple[Installation, Path]:
    host = Installation(folder)
    assert host.install_root(root_file()).returncode == 0
    release = make_release(2, files={"model.bin": (0o644, _ternary(MODEL_BYTES))})
    settings = zstandard.ZstdCompressionParameters.from_level(
        -1, window_log=21, write_content_size=1, write_checksum=1
    )
    compressor = zstandard.ZstdCompressor(compression_params=settings)
    release.bundle = compressor.compress(release.archive())
    return host, host.lay_down(release)


def _peak(process: int) -> int:
    """Returns the most memory that a running process has had, in bytes; 0 once it has ended."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def _apply(program: Path, host: Installation, bundle: Path) -> tuple[float, int]:
    """Returns seconds and peak memory in bytes; puts the prefix back afterwards."""
    fresh = host.folder / "fresh"
    shutil.copytree(host.prefix, fresh, symlinks=True)
    command = [str(program), "--prefix", str(fresh), "apply", str(bundle)]
    peak = 0
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.005)
    seconds = time.perf_counter() - begin
    assert process.returncode == 0
    for path in fresh.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(fresh)
    return seconds, peak


def _tools(bundle: Path, folder: Path) -> float:
    out = folder / "out"
    out.mkdir()
    begin = time.perf_counter()
    subprocess.run(["sha384sum", str(bundle)], check=True, stdout=subprocess.DEVNULL)
    with subprocess.Popen(["zstd", "-dcq", str(bundle)], stdout=subprocess.PIPE) as zstd:
        subprocess.run(["tar", "x", "-C", str(out)], stdin=zstd.stdout, check=True)
    seconds = time.perf_counter() - begin
    shutil.rmtree(out)
    return seconds


def measure(rounds: int = ROUNDS, folder: str = "/dev/shm") -> Iterator[dict[str, Any]]:
    """Yields one record: medians of both, their ratio, and peak memory."""
    program = build_program("bitnet-update", Target(host_arch()))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        host, bundle = _lay_down(Path(scratch))
        ours, tools, peaks = [], [], []
        for _ in range(rounds):
            seconds, peak = _apply(program, host, bundle)
            ours.append(seconds)
            peaks.append(peak)
            tools.append(_tools(bundle, Path(scratch)))
        yield {
            "case": "update",
            "folder": folder,
            "bundle_bytes": bundle.stat().st_size,
            "apply_s": round(statistics.median(ours), 3),
            "apply_spread_s": [round(min(ours), 3), round(max(ours), 3)],
            "tools_s": round(statistics.median(tools), 3),
            "tools_spread_s": [round(min(tools), 3), round(max(tools), 3)],
            "ratio": round(statistics.median(ours) / statistics.median(tools), 2),
            "peak_bytes": max(peaks),
            "rounds": rounds,
            "machine": machine(),
        }


def print_table(records: list[dict[str, Any]]) -> None:
    """Prints the records for people."""
    table = Table("bundle", "apply", "sha384sum, zstd, tar", "ratio", "peak memory")
    for record in records:
        table.add_row(
            f"{record['bundle_bytes'] / 1e6:.0f} MB",
            f"{record['apply_s']:.2f} s",
            f"{record['tools_s']:.2f} s",
            f"{record['ratio']:.2f}",
            f"{record['peak_bytes'] / 1e6:.1f} MB",
        )
    Console().print(table)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", default="/dev/shm")
    arguments = parser.parse_args()
    records = list(measure(arguments.rounds, arguments.folder))
    if arguments.json:
        for record in records:
            print(json.dumps(record))
    else:
        print_table(records)


if __name__ == "__main__":
    main()
