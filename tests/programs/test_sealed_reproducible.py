"""The same inputs give the same bytes: other folder, other time, other user, nothing cached."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.quantize import write_model
from bitnet.seal.executable import seal_model
from bitnet.seal.toolchain import Target, host_arch
from tests.support.host import missing_rights

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"
NOBODY = 65534

SCRIPT = """
import os, sys
from pathlib import Path
os.umask(0o077)
from bitnet.seal.executable import seal_model
from bitnet.seal.toolchain import Target
arch, folder = sys.argv[1], Path(sys.argv[2])
seal_model(folder / "model.bin", folder / "tokenizer.json", folder / f"sealed-{arch}", Target(arch))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    with open_checkpoint(DEMO) as checkpoint:
        write_model(checkpoint, folder / "model.bin", tokenizer=DEMO / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def elsewhere(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources and inputs under another path."""
    checkout = tmp_path_factory.mktemp("elsewhere") / "another folder" / "checkout"
    for name in ("src", "engine"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    work = checkout / "work"
    work.mkdir()
    for source in (inputs / "model.bin", DEMO / "tokenizer.json", DEMO / "tokenizer_config.json"):
        shutil.copy(source, work / source.name)
    for path in (checkout, *checkout.rglob("*")):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return checkout


def as_somebody_else() -> list[str]:
    """Returns what to put before a command to run it as another user, where this one may.

    That user can read what root can, so that it finds a Python installed in root's home.
    """
    if missing_rights("DAC_OVERRIDE", "SETGID", "SETUID"):
        return []
    capability = "+dac_override"
    user = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return ["setpriv", *user, f"--inh-caps={capability}", f"--ambient-caps={capability}", "--"]


@pytest.mark.timeout(600)
def test_seal_elsewhere_gives_the_same_bytes(inputs: Path, elsewhere: Path) -> None:
    """Other path, time zone, date, locale, umask and user; an empty compiler cache; one job."""
    here = inputs / "sealed"
    seal_model(inputs / "model.bin", DEMO / "tokenizer.json", here, Target(host_arch()))
    home = elsewhere / "home"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(elsewhere / "src"),
        "PYTHONHASHSEED": "7",
        "LC_ALL": "tr_TR.UTF-8",
        "TZ": "Asia/Kathmandu",
        "SOURCE_DATE_EPOCH": "1",
        "CPATH": "/nonexistent",
    }
    work = elsewhere / "work"
    command = [sys.executable, "-c", SCRIPT, host_arch(), str(work)]
    command = [*as_somebody_else(), *command]
    subprocess.run(command, cwd=elsewhere, env=environment, check=True)
    shutil.rmtree(home)
    assert (work / f"sealed-{host_arch()}").read_bytes() == here.read_bytes()


def test_seal_other_architecture_twice_gives_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    """In a second build directory everything of ours is compiled and linked again."""
    target = Target("aarch64" if host_arch() == "x86_64" else "x86_64")
    outputs = []
    for build in (None, tmp_path / "build"):
        output = tmp_path / "sealed"
        seal_model(inputs / "model.bin", DEMO / "tokenizer.json", output, target, build=build)
        outputs.append(output.read_bytes())
    assert list((tmp_path / "build").rglob("executable-*.o"))
    assert outputs[0] == outputs[1]
