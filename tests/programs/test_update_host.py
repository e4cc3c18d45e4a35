"""What a host does to bitnet-update and bitnet-rollback: it forbids, forgets, cannot read."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conformance.test_update_attacks import assert_refused
from tests.support import publisher
from tests.support.host import installed
from tests.support.installation import (
    ALICE,
    BOB,
    Installation,
    make_release,
    root_file,
)


@pytest.fixture
def host(tmp_path: Path) -> Installation:
    """An installation with a root and the releases 1 and 2, of which 2 runs."""
    host = Installation(tmp_path)
    assert host.install_root(root_file()).returncode == 0
    for counter in (1, 2):
        assert host.apply(make_release(counter)).returncode == 0
    return host


def faulty(*injected: str, follow: bool = False, path: Path | None = None) -> Sequence[str]:
    """Returns what makes calls of a program fail, those on `path` alone where it is given."""
    options = ["-f"] * follow + (["-P", str(path)] if path is not None else [])
    for each in injected:
        options += ["-e", f"inject={each}"]
    return (installed("strace"), *options, "-o", "/dev/null")


@pytest.mark.parametrize("reason", ["EACCES", "EPERM", "ENOMEM"])
def test_release_that_the_host_does_not_execute_is_not_blamed(
    host: Installation, reason: str
) -> None:
    """Broken, /opt mounted with noexec costs every release that could be gone back to."""
    one, two = make_release(1), make_release(2)
    fault = faulty(f"execveat:error={reason}", follow=True)
    result = host.run("bitnet-rollback", wrap=fault)
    assert_refused(result, "kSelftestHost")
    assert result.returncode == 5
    assert host.state()[one.name].endswith(" kept")
    host.assert_runs(two)
    new = host.lay_down(make_release(3))
    assert_refused(host.run("bitnet-update", "apply", new, wrap=fault), "kSelftestHost")
    host.assert_runs(two)
    assert host.update("apply", new).returncode == 0
    assert host.rollback().returncode == 0
    host.assert_runs(two)


def test_release_that_is_no_program_is_blamed(host: Installation) -> None:
    """Broken, the host is searched for what the release lacks."""
    empty = make_release(3, files={"bitnet-infer": (0o755, b"\x7fELF, but no more\n")})
    result = host.apply(empty)
    assert_refused(result, "kSelftest")
    assert b"exit code 127" in result.stderr


@pytest.mark.parametrize(
    ("words", "stream"),
    [
        ("<&- ", "standard input"),
        (">&- ", "standard output"),
        ("2>&- ", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("program", ["bitnet-rollback", "bitnet-update"])
def test_closed_stream_stops_before_anything_is_opened(
    host: Installation, program: str, words: str, stream: str
) -> None:
    """Broken, the folder of a release becomes its standard input, and the release is blamed."""
    before = host.snapshot(), host.state()
    wrap = ("sh", "-c", f'exec "$0" "$@" {words}')
    result = host.run(program, *(["recover"] * (program == "bitnet-update")), wrap=wrap)
    assert result.returncode == 5
    if stream:
        assert_refused(result, "kStreamClosed")
        assert f"`{stream}`".encode() in result.stderr
    assert (host.snapshot(), host.state()) == before


def test_ignored_end_of_children_is_not_inherited(host: Installation) -> None:
    """Broken, whoever started us decides whether a release can be asked for its answer."""
    result = host.run("bitnet-rollback", wrap=("env", "--ignore-signal=CHLD"))
    assert result.returncode == 0, result.stderr
    host.assert_runs(make_release(1))


def test_ordered_release_that_failed_stays_failed_where_the_host_fails(host: Installation) -> None:
    """Broken, evidence of a failure becomes a release that can be gone back to."""
    bad = make_release(3, mood="lacks later")
    assert_refused(host.apply(bad), "kSelftest")
    assert host.state()[bad.name].endswith(" failed")
    assert host.apply(make_release(4)).returncode == 0
    (host.prefix / "opt" / "lacking").touch()
    result = host.rollback("--order", host.order(bad, 4))
    assert_refused(result, "kSelftestHost")
    host.assert_runs(make_release(4))
    assert host.state()[bad.name].endswith(" failed")


@pytest.mark.parametrize("from_call", [1, 2], ids=["head", "data"])
def test_unreadable_part_is_named(host: Installation, from_call: int) -> None:
    """A scratched disc gives no bytes at all: broken, nobody knows which one to bring again."""
    release = make_release(3)
    host.lay_down(release).unlink()
    parts = publisher.part_files(release.compressed(), [700, 600])
    for name, data in parts.items():
        (host.medium / name).write_bytes(data)
    second = host.medium / list(parts)[1]
    fault = faulty(f"pread64:error=EIO:when={from_call}+", path=second)
    result = host.run("bitnet-update", "apply", host.medium, wrap=fault)
    assert_refused(result, "kParts")
    assert (
        b"missing  part 2 of 3\n" if from_call == 1 else b"damaged  part 2 of 3\n"
    ) in result.stderr
    host.assert_runs(make_release(2))
    assert host.update("apply", host.medium).returncode == 0


def test_unreadable_bundle_says_that_it_cannot_be_read(host: Installation) -> None:
    """Broken, the operator looks for a forger instead of another disc."""
    path = host.lay_down(make_release(3))
    fault = faulty("pread64:error=EIO:when=2+", path=path)
    result = host.run("bitnet-update", "apply", path, wrap=fault)
    assert_refused(result, "kFileSystem")
    assert b"errno 5" in result.stderr
    host.assert_runs(make_release(2))


def test_root_that_is_put_back_without_signatures_is_refused(host: Installation) -> None:
    """Broken, it counts as installed, and bitnet-verify then refuses everything."""
    path = host.prefix / "etc/bitnet/trust.root"
    own = path.read_bytes()
    path.unlink()
    unsigned = root_file(signers=())
    assert publisher.statement_of(unsigned) == publisher.statement_of(own)
    assert_refused(host.install_root(unsigned), "kSignaturesTooFew")
    assert_refused(host.install_root(root_file(signers=(ALICE,))), "kSignaturesTooFew")
    assert not path.exists()
    assert host.install_root(root_file(signers=(ALICE, BOB)), None).returncode == 0
    host.assert_runs(make_release(2))
    assert host.apply(make_release(3)).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("apply", "BUNDLE", "--digest", "0" * 96),
        ("apply", "BUNDLE", "--json"),
        ("recover", "--order", "x"),
        ("recover", "--sig", "x"),
        ("status", "--digest", "0" * 96),
        ("verify-log", "--json"),
        ("root", "install", "x", "--sig", "x"),
    ],
    ids=shlex.join,
)
def test_option_of_another_verb_is_refused(host: Installation, arguments: tuple[str, ...]) -> None:
    """Broken, who types a digest behind `apply` believes that it has been compared."""
    bundle = host.lay_down(make_release(3))
    before = host.state()
    result = host.update(*(bundle if each == "BUNDLE" else each for each in arguments))
    assert_refused(result, "kUsage")
    assert result.returncode == 2
    assert host.state() == before


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("remove",), ("apply",), ("root", "install"), ("apply", "--sig", "x"),
        ("root", "install", "--digest", "0" * 96), ("aply", "x", "--sig", "x"),
        ("root", "instal", "x"), ("status", "more", "--json"), ("recover", "x"),
    ],
    ids=shlex.join,
)  # fmt: skip
def test_missing_verb_or_argument_is_named(host: Installation, arguments: tuple[str, ...]) -> None:
    """Broken, nobody learns what can be asked for."""
    result = host.update(*arguments)
    assert_refused(result, "kOptionMissing")
    assert b"`apply BUNDLE, root install FILE, status, recover or verify-log`" in result.stderr
