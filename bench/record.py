"""What every number depends on besides its case: processor, compiler, commit."""

import re
import subprocess
from pathlib import Path
from typing import Any

from bitnet.seal.toolchain import COMPILER_VERSION, host_arch

__all__ = ["REPOSITORY", "machine"]

REPOSITORY = Path(__file__).resolve().parents[1]


def machine() -> dict[str, Any]:
    """Returns the facts of this host and this checkout that go into every record."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    git = ["git", "-C", str(REPOSITORY)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=False)
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, check=False)
    return {
        "cpu": model[1] if model else host_arch(),
        "compiler": f"ziglang {COMPILER_VERSION}",
        "commit": commit.stdout.decode().strip(),
        "dirty": bool(status.stdout),
    }
