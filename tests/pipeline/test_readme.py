"""The walk-throughs of README.md, as far as nothing else runs them."""

import shutil
import subprocess
from pathlib import Path

from tests.support.engine import REPOSITORY
from tests.support.infer import sealed_program

LINES = [
    line.removeprefix("    ")
    for line in (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("    ")
]


def index_of(start: str) -> int:
    """Returns where the one command that begins so stands among the indented lines."""
    (at,) = (at for at, line in enumerate(LINES) if line.startswith(start))
    return at


def test_readme_makes_the_folder_before_it_is_written_to() -> None:
    """Broken, the command of the walk-through fails: `--output` is a folder that exists."""
    at = index_of("bitnet bundle ")
    assert "--output release/" in LINES[at]
    assert LINES[at - 1] == "mkdir release"


def test_readme_leaves_the_executable_as_its_digest_says(tmp_path: Path) -> None:
    """Broken, what is bundled is neither what was digested nor what `bitnet rebuild` makes."""
    shutil.copy(sealed_program(), tmp_path / "bitnet-infer")
    commands = LINES[index_of("sha384sum bitnet-infer") : index_of("mkdir release")]
    commands = [line for line in commands if line.split(" ")[0] in ("sha384sum", "strip")]
    assert len(commands) == 2
    for command in [*commands, "sha384sum --check --strict bitnet-infer.SHA384"]:
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "stripped").is_file()
