"""What every number depends on besides its case: processor, compiler, commit."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from bitnet.seal.sources import engine_root
from bitnet.seal.toolchain import COMPILER_VERSION, host_arch

__all__ = ["machine"]


def machine() -> dict[str, Any]:
    """Returns the facts of this host and of the sources that go into every record.

    `commit` and `dirty` are None where the engine's sources are not a checkout.
    """
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain")
    return {
        "cpu": _processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "compiler": f"ziglang {COMPILER_VERSION}",
        "commit": commit,
        "dirty": bool(status) if commit is not None else None,
    }


def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return host_arch()
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return model[1] if model else host_arch()


def _git(*arguments: str) -> str | None:
    """Returns what git prints about the checkout, or None where there is none."""
    engine = engine_root()
    if engine.name != "engine":
        return None  # an installed package: a repository around it is somebody else's
    command = ["git", "-C", str(engine.parent), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return None
    return result.stdout.decode("utf-8", "replace").strip() if result.returncode == 0 else None
