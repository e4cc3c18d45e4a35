"""What is interrupted: releases, roots and orders for the driver, and the driver itself."""

import hashlib
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet.seal.toolchain import COMPILER_VERSION, find_compiler, host_arch
from tests.support import publisher
from tests.support.engine import REPOSITORY
from tests.support.installation import ALICE, BOB, root_file
from tests.support.publisher import Release

__all__ = ["Scenario", "build_driver", "scenarios", "write_scenarios"]

_SIGNERS = (ALICE, BOB)
_RELEASE_SOURCES = (
    "archive", "bundle", "content", "manifest", "state", "store", "text", "trust",
    "update",
)  # fmt: skip
_OLD_AGE_S = 73 * 3600


@dataclass(frozen=True)
class Scenario:
    """One verb, what was done before it, and what may run while it is under way."""

    name: str
    verb: str
    before: tuple[str, ...]
    runs: tuple[str, ...]
    end: str
    roots: tuple[str, ...] = ("/media/root1",)


def _release(counter: int, minimum: int = 0, program: str = "works") -> Release:
    answer = b"7what is known?"
    files = {
        "bitnet-infer": (0o755, f"{program} {counter}".encode()),
        "config.yaml": (0o644, b"model: sealed\n"),
        "selftest.prompt": (0o644, answer[1:]),
        "selftest.answer": (0o644, answer),
    }
    return Release(counter, minimum, architecture=host_arch(), files=files)


_ONE, _TWO, _THREE = _release(1), _release(2, 2), _release(3)
_LATE, _NEW = _release(4, program="works late"), _release(5, 1)
_WRONG = _release(6)
_WRONG.tar = _WRONG.archive().replace(b"model: sealed", b"model: opened")  # signed like this
_RELEASES = {"one": _ONE, "two": _TWO, "three": _THREE, "late": _LATE, "new": _NEW, "wrong": _WRONG}
_ROOTS = {"root1": root_file(1), "root2": root_file(2)}


def _digest(name: str) -> str:
    return hashlib.sha384(publisher.statement_of(_ROOTS[name])).hexdigest()


def _apply(name: str, order: str = "-", files: Iterable[str] = ()) -> str:
    paths = " ".join(files) or f"/media/{name}.bundle"
    return f"apply /media/{name}.sig {order} {paths}"


def scenarios() -> list[Scenario]:
    """Returns what is interrupted."""
    root = f"root /media/root1 {_digest('root1')}"
    wait = f"wait {_OLD_AGE_S}"
    one, two, three, new = _ONE.name, _TWO.name, _THREE.name, _NEW.name
    parts = [f"/media/new.part-{index}" for index in (2, 1, 3)]
    return [
        Scenario("first root", root, (), ("-",), "-", ("-", "/media/root1")),
        Scenario("next root", "root /media/root2 -", (root, _apply("one")), (one,), one,
                 ("/media/root1", "/media/root2")),
        Scenario("first apply", _apply("one"), (root,), ("-", one), one),
        Scenario("apply", _apply("new"), (root, _apply("one")), (one, new), new),
        Scenario("apply of parts", _apply("new", files=parts), (root, _apply("one")), (one, new),
                 new),
        Scenario("apply that prunes", _apply("new"),
                 (root, _apply("one"), _apply("three"), wait), (three, new), new),
        Scenario("apply that fails after the switch", _apply("late"), (root, _apply("one")),
                 (one, _LATE.name), one),
        Scenario("refused bundle", _apply("wrong"), (root, _apply("one")), (one,), one),
        Scenario("refused older release", _apply("one"), (root, _apply("one"), _apply("three")),
                 (three,), three),
        Scenario("rollback", "rollback 259200 -", (root, _apply("one"), _apply("three")),
                 (one, three), one),
        Scenario("rollback below the floor", "rollback 259200 /media/order",
                 (root, _apply("one"), _apply("two")), (one, two), one),
        Scenario("refused rollback", "rollback 0 -",
                 (root, _apply("one"), _apply("three"), "wait 9"), (three,), three),
        Scenario("refused order", "rollback 0 /media/order",
                 (root, _apply("one"), _apply("three")), (three,), three),
        Scenario("apply below the floor", _apply("one", "/media/order"), (root, _apply("two")),
                 (two, one), one),
    ]  # fmt: skip


def write_scenarios(folder: Path, wanted: Sequence[Scenario]) -> None:
    """Writes media, the files of the releases, and the list of scenarios."""
    media = folder / "media"
    media.mkdir(parents=True)
    for name, data in _ROOTS.items():
        (media / name).write_bytes(data)
    for name, release in _RELEASES.items():
        signatures = publisher.container(release.statement, _SIGNERS)
        (media / f"{name}.sig").write_bytes(signatures)
        (media / f"{name}.bundle").write_bytes(release.compressed())
        if release is _WRONG:  # never to be installed: its folder would be one too many
            continue
        installed = folder / "releases" / release.name
        installed.mkdir(parents=True)
        files = {name: data for name, (_, data) in release.files.items()}
        files |= {"MANIFEST": release.manifest, "update.sig": signatures}
        for file, data in files.items():
            (installed / file).write_bytes(data)
    for index, part in enumerate(publisher.part_files(_NEW.compressed(), [100, 50]).values(), 1):
        (media / f"new.part-{index}").write_bytes(part)
    order = publisher.rollback_order("bitnet", 2, 1, _ONE.manifest_digest)
    (media / "order").write_bytes(publisher.container(order, _SIGNERS))
    lines = []
    for scenario in wanted:
        lines.append(f"scenario {scenario.name.replace(' ', '_')}")
        lines += [f"before {words}" for words in scenario.before]
        lines.append(f"verb {scenario.verb}")
        lines.append(f"runs {' '.join(scenario.runs)}")
        lines.append(f"end {scenario.end}")
        lines.append(f"roots {' '.join(scenario.roots)}")
    (folder / "scenarios").write_text("\n".join(lines) + "\n", encoding="ascii")


def build_driver() -> Path:
    """Compiles the engine's own update over the file system in memory; done once per change."""
    engine = REPOSITORY / "engine"
    own = REPOSITORY / "tests" / "powerloss"
    sources = [engine / "release" / f"{name}.cc" for name in _RELEASE_SOURCES]
    sources += [engine / "base" / "text.cc", own / "fs_model.cc", own / "main.cc"]
    headers = [path for room in ("base", "crypto", "platform", "release", ".")
               for path in sorted((engine / room).glob("*.h"))]  # fmt: skip
    shim = engine / "crypto" / "crypto.zig"
    digest = hashlib.sha256(COMPILER_VERSION.encode())
    inputs = [*sources, *headers, shim, own / "fs_model.h", engine / "base" / "status.def"]
    for path in inputs:
        digest.update(path.read_bytes())
    output = REPOSITORY / "build" / "powerloss" / f"driver-{digest.hexdigest()[:20]}"
    if output.exists():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    zig = str(find_compiler())
    crypto = output.with_suffix(".o")
    subprocess.run(
        [zig, "build-obj", "-O", "ReleaseSafe", "-fPIC", "-fstrip", "-fno-stack-check", str(shim),
         f"-femit-bin={crypto}"],
        check=True,
    )  # fmt: skip
    command = [zig, "c++", "-std=c++20", "-O2", "-fno-sanitize=all", f"-I{engine}", f"-I{own}"]
    command.append("-Dbitnet_mldsa87_verify=remembered_verify")
    partial = output.with_suffix(".new")
    command += [*map(str, sources), str(crypto), "-o", str(partial)]
    subprocess.run(command, check=True)
    partial.replace(output)
    return output
