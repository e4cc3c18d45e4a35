"""What bitnet-update writes, and when: nothing before trust, nothing twice, refusals counted."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bitnet.seal import toolchain
from bitnet.seal.sources import PROGRAMS, build_root, engine_root
from tests.conformance.test_update_attacks import ARCHIVES, assert_refused, changed
from tests.programs.test_update import chained
from tests.support.held import held_after
from tests.support.host import installed, root_only
from tests.support.installation import (
    ALICE,
    Installation,
    Result,
    fake_infer,
    make_release,
    root_file,
)
from tests.support.lockdown import become_nobody
from tests.support.publisher import Release, statement_of
from tests.support.status_table import status_rows

CREATES = "trace=openat,openat2,mkdirat,mkdir,symlinkat,linkat,mknodat,renameat,renameat2"
# How a state is replaced and a line of the log written: all that a refusal may leave.
RECORD = {"lock", "log", ".state-new", "state"}
LIMIT_MS = 400


@pytest.fixture
def host(tmp_path: Path) -> Installation:
    """An installation with a root and release 2."""
    host = Installation(tmp_path)
    assert host.install_root(root_file()).returncode == 0
    assert host.apply(make_release(2)).returncode == 0
    return host


def traced(host: Installation, *arguments: str | Path, what: str) -> tuple[Result, list[str]]:
    """Runs bitnet-update under strace; returns its lines too, with paths beside descriptors."""
    log = host.folder / "trace"
    wrap = (installed("strace"), "-y", "-e", what, "-e", "signal=none", "-o", str(log))
    result = host.run("bitnet-update", *arguments, wrap=wrap)
    return result, log.read_text(encoding="utf-8", errors="replace").splitlines()


def made_names(lines: Sequence[str]) -> set[str]:
    """Returns the names that calls have made or taken, whether or not they are still there."""
    made = [line for line in lines if "O_CREAT" in line or not line.startswith("open")]
    return {re.findall(r'"([^"]*)"', line)[-1] for line in made if re.search(r" = \d", line)}


# Nothing before trust.


def _mixed() -> Release:
    """A manifest under a validly signed bundle of another release."""
    release = make_release(3)
    release.bundle = make_release(4).compressed()
    return release


DECIDABLE: dict[str, tuple[Callable[[], Release], str, dict[str, object]]] = {
    "too few signatures": (lambda: make_release(3), "kSignaturesTooFew", {"signers": (ALICE,)}),
    "older": (lambda: make_release(1), "kDowngrade", {}),
    "same counter": (lambda: make_release(2, files={"x": (0o644, b"")}), "kDowngrade", {}),
    "other product": (lambda: make_release(3, product="other"), "kProduct", {}),
    "other processor": (lambda: make_release(3), "kProduct", {"architecture": "riscv64"}),
    "no bundle": (lambda: make_release(3, with_bundle=False), "kNoBundle", {}),
    "longer": (lambda: make_release(3), "kBundleDigest", {"change": lambda data: data + b"\0"}),
    "empty": (lambda: make_release(3), "kBundleDigest", {"change": lambda _: b""}),
    "other manifest": (_mixed, "kArchiveEntry", {}),
    "manifest is not first": (
        lambda: changed(make_release(3), ARCHIVES["manifest last"]), "kArchiveEntry", {},
    ),
    "other size announced": (
        lambda: changed(make_release(3), lambda entries: [*entries, bytes(20480)]),
        "kArchiveLength", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DECIDABLE)
def test_apply_what_manifest_and_signatures_decide_creates_nothing(
    host: Installation, name: str
) -> None:
    """If this fails, whoever hands in a medium can have files written before he is believed."""
    make, status, given = DECIDABLE[name]
    release, changes = make(), dict(given)
    if "architecture" in changes:
        release.architecture = str(changes.pop("architecture"))
    before = host.snapshot()
    bundle = host.lay_down(release, **changes)  # type: ignore[arg-type]
    result, lines = traced(host, "apply", bundle, what=CREATES)
    assert_refused(result, status)
    assert made_names(lines) == RECORD
    assert host.snapshot() == before


def test_apply_what_only_content_decides_stays_in_the_staging_folder(host: Installation) -> None:
    """If this fails, bytes that nobody signed lie under the name of a release for a while."""
    before = host.snapshot()
    release = make_release(3, files={"model.bin": (0o644, random.Random(3).randbytes(1 << 20))})

    def flip(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    bundle = host.lay_down(release, change=flip)
    result, lines = traced(host, "apply", bundle, what=CREATES)
    assert_refused(result, "kBundleDigest")
    assert b": `model.bin`\n" in result.stderr
    assert made_names(lines) == {*RECORD, ".incoming", "bitnet-infer", "config.yaml", "model.bin"}
    assert host.snapshot() == before


def test_apply_reads_the_medium_once(host: Installation) -> None:
    """If this fails, a medium can show other bytes when they are used than when they were checked.

    The head of the file is looked at before, to tell a bundle from a part.
    """
    bundle = host.lay_down(make_release(3))
    result, lines = traced(host, "apply", bundle, what="trace=pread64,read,mmap")
    assert result.returncode == 0, result.stderr
    own = [line for line in lines if f"<{bundle}>" in line]
    assert own and all(line.startswith("pread64") for line in own)
    size = bundle.stat().st_size
    read = sum(int(line.rsplit("= ", 1)[1]) for line in own)
    assert size <= read <= size + 512


def test_apply_full_disk_is_told_before_the_content_is_read(host: Installation) -> None:
    """If this fails, an hour of reading ends in a full disk."""
    before = host.snapshot()
    release = make_release(3, files={"model.bin": (0o644, bytes(1 << 20))})
    log = host.folder / "trace"
    wrap = (installed("strace"), "-y", "-o", str(log), "-e", "inject=fallocate:error=ENOSPC:when=3")
    result = host.run("bitnet-update", "apply", host.lay_down(release), wrap=wrap)
    assert_refused(result, "kFileSystem")
    assert b"errno 28" in result.stderr
    text = log.read_text(encoding="utf-8", errors="replace")
    assert re.search(rf"fallocate\(\d+<.*/\.incoming/model\.bin>, 0, 0, {1 << 20}\)", text)
    assert not re.search(r"pwrite64\(\d+<.*/\.incoming/model\.bin>", text)
    assert host.snapshot() == before
    assert host.refusals()[0] == "0"  # the disk refuses, not the programs


@contextlib.contextmanager
def public_prefix() -> Iterator[Installation]:
    """Yields an installation in a folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="bitnet-update-") as name:
        Path(name).chmod(0o755)
        host = Installation(Path(name))
        yield host
        for path in host.prefix.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


@root_only
def test_staging_folder_is_closed_to_others_until_all_is_right() -> None:
    """If this fails, another user runs or reads what has not been verified yet."""
    with public_prefix() as host:
        assert host.install_root(root_file()).returncode == 0
        bundle = host.lay_down(make_release(2))
        command = [host.program("bitnet-update"), "--prefix", host.prefix, "apply", bundle]
        staging = host.releases / ".incoming"
        # With its first write of all the program is there, and not yet closed.
        with held_after("pwrite64", 1, host.folder / "trace", command) as held:
            assert (staging / "bitnet-infer").read_bytes() == fake_infer()
            assert staging.stat().st_mode & 0o7777 == 0o700
            assert (staging / "bitnet-infer").stat().st_mode & 0o7777 == 0o600
            tried = subprocess.run(
                ["cat", staging / "bitnet-infer"], capture_output=True, check=False,
                preexec_fn=become_nobody,
            )  # fmt: skip
            assert tried.returncode != 0 and b"Permission denied" in tried.stderr
            process = held.go_on()
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        assert not staging.exists()
        host.assert_runs(make_release(2))


# Refusals in the record.


def events(host: Installation, name: str) -> list[list[str]]:
    """Returns the words between an event's name and the digest at the end of its line."""
    log = (host.releases / "log").read_text(encoding="ascii")
    words = [line.split(" ") for line in log.splitlines()]
    return [each[4:-1] for each in words if each[3] == name]


def test_refused_apply_is_in_the_log_with_status_and_manifest(host: Installation) -> None:
    """If this fails, nobody learns that somebody tried."""
    unsigned, old = make_release(3), make_release(1)
    assert_refused(host.apply(unsigned, signers=(ALICE,)), "kSignaturesTooFew")
    status = str(status_rows()["kDowngrade"].number)
    few = str(status_rows()["kSignaturesTooFew"].number)
    total, streak, _, number, digest = host.refusals()
    assert (total, streak, number, digest) == ("1", "1", few, unsigned.manifest_digest)
    assert_refused(host.apply(old), "kDowngrade")
    assert events(host, "refused") == [
        ["1", few, unsigned.manifest_digest], ["2", status, old.manifest_digest],
    ]  # fmt: skip
    assert host.state()["log"].split()[2] == chained((host.releases / "log").read_bytes())
    refused = [line for line in host.status()["state"] if line.startswith("refused ")]
    assert refused == ["refused " + " ".join(host.refusals())]


def test_refused_apply_without_a_readable_manifest_has_zeros(host: Installation) -> None:
    """If this fails, a refusal carries the digest of another release."""
    bundle = host.lay_down(make_release(3))
    (host.medium / "update.sig").write_bytes(b"not signatures\n")
    result = host.update("apply", bundle)
    assert result.returncode == 3
    assert host.refusals()[0] == "1" and host.refusals()[4] == "0" * 96
    # A path that is not there, and a disk, are no refusals.
    assert_refused(host.update("apply", host.folder / "nothing"), "kFileSystem")
    assert host.refusals()[0] == "1"


def test_refused_apply_under_a_changed_root_is_in_the_log(host: Installation) -> None:
    """If this fails, who changes whom the host believes is not noted when he uses it."""
    path = host.prefix / "etc/bitnet/trust.root"
    path.unlink()
    path.write_bytes(root_file(2))
    assert_refused(host.apply(make_release(3)), "kRootChanged")
    number = str(status_rows()["kRootChanged"].number)
    assert host.refusals()[:2] == ["1", "1"]
    assert events(host, "refused") == [["1", number, "0" * 96]]
    assert_refused(host.update("recover"), "kRootChanged")
    assert host.refusals()[0] == "1"  # nothing was handed in


def test_refused_rollback_is_in_the_log(host: Installation) -> None:
    """If this fails, orders can be tried until one fits, and nobody learns of it."""
    assert host.apply(make_release(3)).returncode == 0
    wrong = host.order(make_release(2), 3, signers=(ALICE,))
    assert_refused(host.rollback("--order", wrong), "kSignaturesTooFew")
    other = host.order(make_release(2), 9)
    assert_refused(host.rollback("--order", other), "kOrder")
    assert_refused(host.rollback("--keep-old=0h", "--order", other), "kOrder")
    few, order = (str(status_rows()[name].number) for name in ("kSignaturesTooFew", "kOrder"))
    assert events(host, "refused") == [["1", few, "0" * 96], ["2", order, "0" * 96]]
    assert host.refusals()[:2] == ["3", "3"]
    assert host.rollback().returncode == 0
    assert host.refusals()[:2] == ["3", "0"]


def test_ordered_rollback_to_what_was_changed_is_in_the_log(host: Installation) -> None:
    """If this fails, a release that was changed where it lay leaves no trace."""
    assert host.apply(make_release(3)).returncode == 0
    path = host.releases / make_release(2).name / "config.yaml"
    path.chmod(0o644)
    path.write_bytes(b"mood: evil\n")
    assert_refused(host.rollback("--order", host.order(make_release(2), 3)), "kFileDigest")
    number = str(status_rows()["kFileDigest"].number)
    assert events(host, "refused") == [["1", number, make_release(2).manifest_digest]]


def test_refusals_without_end_leave_few_lines_and_an_exact_count(host: Installation) -> None:
    """If this fails, who offers bad bundles fills the disk, or hides one attempt among many."""
    bundle = host.lay_down(make_release(1))
    for _ in range(9):
        assert_refused(host.update("apply", bundle), "kDowngrade")
    assert [line[0] for line in events(host, "refused")] == ["1", "2", "4", "8"]
    assert host.refusals()[:2] == ["9", "9"]
    # A real event ends the series: the next attempt is written down again.
    assert host.apply(make_release(3)).returncode == 0
    assert host.refusals()[:2] == ["9", "0"]
    assert_refused(host.apply(make_release(1)), "kDowngrade")
    assert [line[0] for line in events(host, "refused")] == ["1", "2", "4", "8", "10"]
    assert host.refusals()[:2] == ["10", "1"]
    assert host.status()["doubts"] == []
    assert len(events(host, "installed")) == 2


@pytest.mark.parametrize("call", ["openat2", "pwrite64", "fsync", "renameat"])
def test_refusal_that_cannot_be_recorded_is_still_that_refusal(
    host: Installation, call: str
) -> None:
    """If this fails, a full disk turns "not trusted" into something else."""
    bundle = host.lay_down(make_release(1))
    _, lines = traced(host, "apply", bundle, what=f"trace={call}")
    count = sum(line.startswith(f"{call}(") for line in lines)
    inject = f"inject={call}:error=ENOSPC:when={count}"
    wrap = ("strace", "-o", "/dev/null", "-e", inject)
    for _ in range(2):
        assert_refused(host.run("bitnet-update", "apply", bundle, wrap=wrap), "kDowngrade")
    host.assert_runs(make_release(2))


# The time limit of the self-test.


@pytest.fixture(scope="module")
def hasty_update(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program itself, compiled from sources in which only the limit differs."""
    engine = tmp_path_factory.mktemp("hasty") / "engine"
    shutil.copytree(engine_root(), engine)
    header = engine / "release" / "store.h"
    text, count = re.subn(r"(kSelftestMs = )300000;", rf"\g<1>{LIMIT_MS};", header.read_text())
    assert count == 1  # five minutes, as docs/operations.md says
    header.write_text(text)
    commands = toolchain.plan(
        PROGRAMS["bitnet-update"], toolchain.Target(toolchain.host_arch()), engine=engine,
        build=build_root(), compiler=str(toolchain.find_compiler()),
    )  # fmt: skip
    return toolchain.run(commands, directory=engine)


@pytest.mark.parametrize("action", ["error=EIO", "error=EINTR", "signal=SIGKILL"])
@pytest.mark.parametrize("call", ["prctl", "dup2", "dup3", "fchdir", "execveat"])
def test_self_test_interrupted_before_it_runs_leaves_old_or_new(
    host: Installation, call: str, action: str
) -> None:
    """If this fails, a release that was never asked runs, or can never be asked again."""
    bundle = host.lay_down(make_release(3))
    inject = ("strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:{action}:when=1")
    host.run("bitnet-update", "apply", bundle, wrap=inject)
    host.assert_runs(make_release(3 if host.link() == make_release(3).name else 2))
    assert host.update("apply", bundle).returncode == 0
    host.assert_runs(make_release(3))


@pytest.mark.parametrize("mood", ["hangs", "stays"])
def test_release_that_does_not_end_in_time_is_killed_and_the_old_one_stays(
    host: Installation, hasty_update: Path, mood: str
) -> None:
    """If this fails, a release that hangs blocks the host, with or without an open output."""
    release = make_release(3, mood=mood)
    bundle = host.lay_down(release)
    begin = time.monotonic()
    result = subprocess.run(
        [hasty_update, "--prefix", host.prefix, "apply", bundle],
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert time.monotonic() - begin > LIMIT_MS / 1000
    assert_refused(result, "kSelftest")
    host.assert_runs(make_release(2))
    host.assert_whole(release)
    assert host.state()[release.name].endswith(" failed")
    running = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, is the kernel's own, or another user's
            running.add(os.readlink(process / "exe"))
    assert os.readlink("/proc/self/exe") in running
    assert not any(str(host.prefix) in path for path in running)
    assert host.apply(make_release(4)).returncode == 0


# Users.


def as_nobody(host: Installation, program: str, *arguments: str | Path) -> Result:
    """Runs a program as the user that owns nothing, from a copy that it may read."""
    copy = host.folder / program
    shutil.copy(host.program(program), copy)
    return subprocess.run(
        [copy, "--prefix", host.prefix, *arguments], capture_output=True, timeout=100,
        check=False, stdin=subprocess.DEVNULL, preexec_fn=become_nobody,
    )  # fmt: skip


def assert_foreign(result: Result, folder: Path) -> None:
    assert_refused(result, "kFolderForeign")
    told = result.stderr.decode()
    assert f": `{folder}`\n" in told
    assert "--prefix" in told.split("hint: ")[1] and "owner" in told.split("hint: ")[1]


@root_only
def test_user_who_owns_the_prefix_installs_updates_and_goes_back() -> None:
    """If this fails, a user without rights cannot keep releases in a folder of his own."""
    with public_prefix() as host:
        os.chown(host.prefix, 65534, 65534)
        path = host.folder / "new.root"
        path.write_bytes(root_file())
        digest = hashlib.sha384(statement_of(root_file())).hexdigest()
        install = ("root", "install", path, "--digest", digest)
        assert as_nobody(host, "bitnet-update", *install).returncode == 0
        for counter in (1, 2):
            bundle = host.lay_down(make_release(counter))
            result = as_nobody(host, "bitnet-update", "apply", bundle)
            assert result.returncode == 0, result.stderr
        host.assert_runs(make_release(2))
        assert as_nobody(host, "bitnet-rollback").returncode == 0
        host.assert_runs(make_release(1))
        assert (host.releases / make_release(1).name).stat().st_uid == 65534


@root_only
def test_user_who_does_not_own_the_folder_is_told_which_and_what_to_do() -> None:
    """If this fails, an operator reads `errno 13` and guesses."""
    with public_prefix() as host:
        opt = host.prefix / "opt"
        bundle = host.lay_down(make_release(2))
        assert_foreign(as_nobody(host, "bitnet-update", "apply", bundle), opt)
        assert list(host.prefix.iterdir()) == []
        assert host.install_root(root_file()).returncode == 0
        assert host.apply(make_release(1)).returncode == 0
        bundle = host.lay_down(make_release(2))
        before, record = host.snapshot(), (host.releases / "state").read_bytes()
        for program, words in (("bitnet-update", ("apply", bundle)), ("bitnet-rollback", ())):
            assert_foreign(as_nobody(host, program, *words), opt)
        opt.chmod(0o777)
        assert_foreign(as_nobody(host, "bitnet-update", "recover"), host.releases)
        host.releases.chmod(0o777)
        assert_foreign(as_nobody(host, "bitnet-update", "recover"), host.releases)  # its log
        assert as_nobody(host, "bitnet-update", "status").returncode == 0  # to look is allowed
        host.releases.chmod(0o755)
        opt.chmod(0o755)
        assert (host.snapshot(), (host.releases / "state").read_bytes()) == (before, record)


@root_only
def test_root_file_in_a_folder_of_somebody_else_is_told() -> None:
    """If this fails, a new trust root stops halfway because of a folder nobody names."""
    with public_prefix() as host:
        assert host.install_root(root_file()).returncode == 0
        for path in (host.prefix / "opt", host.releases, *host.releases.iterdir()):
            os.chown(path, 65534, 65534)
        path = host.folder / "next.root"
        path.write_bytes(root_file(2))
        result = as_nobody(host, "bitnet-update", "root", "install", path)
        assert_foreign(result, host.prefix / "etc" / "bitnet")
        assert host.state()["root"].split()[0] == "1"


@root_only
def test_user_without_rights_cannot_hold_the_lock() -> None:
    """If this fails, any user of the machine can keep it from being updated."""
    with public_prefix() as host:
        assert host.install_root(root_file()).returncode == 0
        tell = f"echo held; cat {host.releases}/lock || echo refused; cat >/dev/null"
        command = ["flock", host.releases, "flock", host.releases / "log", "sh", "-c", tell]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            user=65534, group=65534, extra_groups=[],
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert process.stdout.readline() == b"refused\n"
            result = host.apply(make_release(3))
            process.communicate()
        assert result.returncode == 0, result.stderr
