"""The real program under strace: each system call killed before, killed after, or failed."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.host import installed
from tests.support.installation import Installation, make_release, root_file
from tests.support.publisher import Release

__all__ = ["ACTIONS", "VERBS", "Verb", "interrupt", "list_calls"]

# What happens to a call: `error` alone keeps it from having an effect and lets the program go on.
ACTIONS = (
    "signal=SIGKILL",
    "error=EIO:signal=SIGKILL",
    "error=EIO",
    "error=ENOSPC",
    "error=EINTR",
    "error=EDQUOT",
)
_CALL = re.compile(r"^(\w+)\(")
_BEFORE_MAIN = {"execve", "arch_prctl", "set_tid_address", "brk", "mprotect"}
Ready = tuple[Installation, tuple[str, ...]]


@dataclass(frozen=True)
class Verb:
    """A verb, how it is made ready, and what may run while it is under way; None for nothing."""

    prepare: Callable[[Installation], Ready]
    runs: tuple[Release | None, ...]
    end: Release | None
    program: str = "bitnet-update"
    code: int = 0


def _with(host: Installation, *counters: int) -> None:
    assert host.install_root(root_file()).returncode == 0
    for counter in counters:
        assert host.apply(make_release(counter)).returncode == 0


def _apply(host: Installation) -> Ready:
    _with(host, 1)
    return host, ("apply", str(host.lay_down(make_release(2))))


def _refused(host: Installation) -> Ready:
    _with(host, 1)
    release = make_release(2)
    entries = release.entries()
    entries[2] = entries[2].replace(b"mood: well", b"mood: evil")
    release.tar = release.join(entries)
    return host, ("apply", str(host.lay_down(release)))


def _rollback(host: Installation) -> Ready:
    _with(host, 1, 2)
    return host, ()


def _root(host: Installation) -> Ready:
    _with(host, 1)
    path = host.folder / "next.root"
    path.write_bytes(root_file(2))
    return host, ("root", "install", str(path))


_ONE, _TWO = make_release(1), make_release(2)
VERBS = {
    "apply": Verb(_apply, (_ONE, _TWO), _TWO),
    "refused apply": Verb(_refused, (_ONE,), _ONE, code=3),
    "rollback": Verb(_rollback, (_ONE, _TWO), _ONE, "bitnet-rollback"),
    "root": Verb(_root, (_ONE,), _ONE),
}


def _copy(ready: Installation, folder: Path) -> Installation:
    host = Installation(folder)
    host.prefix.rmdir()
    shutil.copytree(ready.prefix, host.prefix, symlinks=True)
    return host


def _remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


def list_calls(ready: Ready, verb: Verb, scratch: Path) -> list[tuple[str, int]]:
    """Returns the program's calls in order, each with its number among those of its name."""
    folder = scratch / "counted"
    folder.mkdir()
    host = _copy(ready[0], folder)
    log = scratch / "calls"
    result = host.run(verb.program, *ready[1], wrap=(installed("strace"), "-o", str(log)))
    assert result.returncode == verb.code, result.stderr
    counts: dict[str, int] = {}
    calls = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        name = match[1]
        counts[name] = counts.get(name, 0) + 1
        if name not in _BEFORE_MAIN and name != "exit_group":
            calls.append((name, counts[name]))
    _remove(folder)
    return calls


def interrupt(ready: Ready, verb: Verb, scratch: Path, call: tuple[str, int], action: str) -> None:
    """Runs a verb with one call interrupted, then again; asserts what must hold after each.

    A `close` that fails and leaves the descriptor open, as strace would make it, does not exist on
    Linux: it is killed instead.
    """
    if call[0] == "close" and "SIGKILL" not in action:
        action = ACTIONS[0]
    folder = scratch / "interrupted"
    folder.mkdir()
    host = _copy(ready[0], folder)
    name, number = call
    inject = f"inject={name}:{action}:when={number}"
    quiet = (installed("strace"), "-o", "/dev/null", "-e", "signal=none", "-e", inject)
    host.run(verb.program, *ready[1], wrap=quiet)
    allowed = {release.name: release for release in verb.runs if release is not None}
    assert host.link() in allowed, (inject, host.link())
    host.assert_whole(allowed[host.link()])
    recovered = host.update("recover")
    assert recovered.returncode == 0, (inject, recovered.stderr)
    host.assert_runs(allowed[host.link()])
    assert verb.end is not None
    if verb.program != "bitnet-rollback" or host.link() != verb.end.name:
        again = host.run(verb.program, *ready[1])
        assert again.returncode == verb.code, (inject, again.stderr)
    host.assert_runs(verb.end)
    assert ".incoming" not in host.folders()
    _remove(folder)
