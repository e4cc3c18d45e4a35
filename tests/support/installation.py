"""An installation in a folder: the real programs of the gap, a publisher, and what lies on disk."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitnet.seal.toolchain import Target, build_program, find_compiler, host_arch
from tests.support import publisher
from tests.support.engine import REPOSITORY, scratch_directory
from tests.support.publisher import Release, Signer

__all__ = [
    "ALICE",
    "BOB",
    "CAROL",
    "SITE",
    "Installation",
    "Result",
    "fake_infer",
    "make_release",
    "root_file",
]

Result = subprocess.CompletedProcess[bytes]
ALICE, BOB, CAROL = Signer("alice"), Signer("bob"), Signer("carol")
SITE = Signer("site")
_PROMPT = b"what is known?\n"


@functools.cache
def fake_infer() -> bytes:
    """Returns the stand-in for bitnet-infer, compiled once."""
    path = scratch_directory() / "fake-infer"
    source = REPOSITORY / "tests" / "support" / "fake_infer.cc"
    target = f"{host_arch()}-linux-musl"
    command = [str(find_compiler()), "c++", "-target", target, "-static", "-Os", "-s"]
    subprocess.run([*command, str(source), "-o", str(path)], check=True, capture_output=True)
    return path.read_bytes()


@functools.cache
def _program(name: str) -> Path:
    return build_program(name, Target(host_arch()))


def make_release(counter: int, minimum: int = 0, *, mood: str = "well", **changes: Any) -> Release:
    """Returns a release whose stand-in answers; each counter gives other bytes."""
    seed = changes.pop("seed", 7)
    files = {
        "bitnet-infer": (0o755, fake_infer()),
        "config.yaml": (0o644, f"mood: {mood}\ncounter: {counter}\n".encode()),
        "selftest.prompt": (0o644, _PROMPT),
        "selftest.answer": (0o644, str(seed).encode() + _PROMPT),
        "sbom.cdx.json": (0o644, f"{{{counter}}}".encode()),
    } | changes.pop("files", {})
    return Release(
        counter, minimum, version=f"1.0.{counter}", architecture=host_arch(), seed=seed,
        files=files, **changes,
    )  # fmt: skip


def root_file(version: int = 1, **changes: Any) -> bytes:
    """Returns a trust root: two of alice, bob and carol for everything."""
    people = (2, (ALICE, BOB, CAROL))
    roles = {"root": people, "release": people} | changes.pop("roles", {})
    signers = changes.pop("signers", (ALICE, BOB))
    return publisher.container(publisher.trust_root(version, roles, **changes), signers)


class Installation:
    """A prefix that the programs write to, and a folder in which media are laid down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = folder / "host"
        self.prefix.mkdir()
        self.medium = folder / "medium"
        self.installed: dict[str, tuple[int, bytes]] = {}

    # The programs.

    @staticmethod
    def program(name: str) -> Path:
        return _program(name)

    def run(self, program: str, *arguments: str | Path, wrap: Sequence[str] = ()) -> Result:
        command = [*wrap, _program(program), "--prefix", self.prefix, *arguments]
        return subprocess.run(
            command, capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL
        )

    def update(self, *arguments: str | Path) -> Result:
        return self.run("bitnet-update", *arguments)

    def rollback(self, *arguments: str | Path) -> Result:
        return self.run("bitnet-rollback", *arguments)

    def install_root(self, data: bytes, digest: str | None = "own") -> Result:
        path = self.folder / "new.root"
        path.write_bytes(data)
        own = hashlib.sha384(publisher.statement_of(data)).hexdigest()
        option = [] if digest is None else ["--digest", own if digest == "own" else digest]
        return self.update("root", "install", path, *option)

    def lay_down(
        self,
        release: Release,
        signers: Sequence[Signer] = (ALICE, BOB),
        change: Callable[[bytes], bytes] = lambda data: data,
    ) -> Path:
        """Writes a bundle and its signatures to an empty medium; returns the bundle's path."""
        shutil.rmtree(self.medium, ignore_errors=True)
        self.medium.mkdir()
        path = self.medium / f"{release.product}-v{release.version}.tar.zst"
        path.write_bytes(change(release.compressed()))
        signatures = publisher.container(release.statement, signers)
        (self.medium / "update.sig").write_bytes(signatures)
        return path

    def apply(self, release: Release, *arguments: str | Path, **changes: Any) -> Result:
        return self.update("apply", self.lay_down(release, **changes), *arguments)

    def order(self, release: Release, from_: int, *, signers: Sequence[Signer] = (ALICE, BOB),
              **changes: Any) -> Path:  # fmt: skip
        """Writes a rollback order to a release and returns its path."""
        values = {"product": "bitnet", "from_": from_, "to": release.counter,
                  "digest": release.manifest_digest} | changes  # fmt: skip
        path = self.folder / "rollback.order"
        path.write_bytes(publisher.container(publisher.rollback_order(**values), signers))
        return path

    # What lies on the disk, read without the programs.

    @property
    def releases(self) -> Path:
        return self.prefix / "opt" / "bitnet.d"

    def link(self, name: str = "bitnet") -> str:
        """Returns the release that a link points to; empty where there is no link."""
        path = self.prefix / "opt" / name
        if not path.is_symlink():
            return ""
        folder, _, release = os.readlink(path).partition("/")
        assert folder == "bitnet.d"
        return release

    def folders(self) -> set[str]:
        """Returns the names of the folders that hold releases, or parts of one."""
        return {path.name for path in self.releases.iterdir() if path.is_dir()}

    def state(self) -> dict[str, str]:
        """Returns the lines of the state by their first word; releases under their names."""
        lines = (self.releases / "state").read_text(encoding="ascii").splitlines()[1:]
        pairs = (line.split(" ", 1) for line in lines if not line.startswith("release "))
        kept = (line.split(" ", 2)[1:] for line in lines if line.startswith("release "))
        return dict((*pairs, *kept))

    def status(self) -> dict[str, list[str]]:
        result = self.update("status", "--json")
        assert result.returncode == 0, result.stderr
        told: dict[str, list[str]] = json.loads(result.stdout)
        return told

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        """Returns mode and content of everything there, but of the record that refusals go to."""
        own = {self.releases / "state", self.releases / "log"}
        return {
            str(path.relative_to(self.prefix)): (
                path.lstat().st_mode,
                os.readlink(path).encode() if path.is_symlink()
                else b"" if path.is_dir() or path in own
                else path.read_bytes(),
            )
            for path in sorted(self.prefix.rglob("*"))
        }  # fmt: skip

    def refusals(self) -> list[str]:
        """Returns what the state says of refusals: total, in a row, when, status, manifest."""
        return self.state()["refused"].split(" ")

    def assert_whole(self, release: Release) -> None:
        """Every file of a release has the bytes and the mode that it must have, and no other is."""
        folder = self.releases / release.name
        assert folder.stat().st_mode & 0o7777 == 0o555
        found = {path.name for path in folder.iterdir()}
        assert found == {*release.files, "MANIFEST", "update.sig"}
        assert (folder / "MANIFEST").read_bytes() == release.manifest
        for name, (mode, data) in release.files.items():
            path = folder / name
            assert not path.is_symlink()
            assert path.read_bytes() == data
            assert path.stat().st_mode & 0o7777 == mode & 0o555

    def assert_runs(self, release: Release) -> None:
        """The release is installed, whole, and nothing is in doubt."""
        assert self.link() == release.name
        self.assert_whole(release)
        assert self.status()["doubts"] == []
