"""bitnet-update and bitnet-rollback as an operator has them: the real static programs."""

import fcntl
import hashlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.test_update_attacks import assert_refused
from tests.support.host import installed
from tests.support.installation import (
    ALICE,
    BOB,
    CAROL,
    SITE,
    Installation,
    make_release,
    root_file,
)
from tests.support.publisher import container, statement_of

HOUR = 3600


@pytest.fixture
def host(tmp_path: Path) -> Installation:
    """A prefix with a trust root and nothing installed."""
    host = Installation(tmp_path)
    result = host.install_root(root_file())
    assert (result.returncode, result.stdout) == (0, b"installed  trust root version 1\n")
    return host


def install(host: Installation, *counters: int, minimum: int = 0) -> None:
    for counter in counters:
        result = host.apply(make_release(counter, minimum))
        assert result.returncode == 0, result.stderr


def edit_state(host: Installation, change: Callable[[str], str]) -> None:
    path = host.releases / "state"
    path.write_text(change(path.read_text(encoding="ascii")), encoding="ascii")


def let_hours_pass(host: Installation, hours: int) -> None:
    """Adds to this host's own record of time, as if it had counted that long."""

    def change(text: str) -> str:
        return re.sub(
            r"^(time \S+ \d+ \d+) (\d+)",
            lambda match: f"{match[1]} {int(match[2]) + hours * HOUR}",
            text, flags=re.MULTILINE,
        )  # fmt: skip

    edit_state(host, change)


# Installing.


def test_apply_first_and_next_release_switches_and_keeps(host: Installation) -> None:
    """If this fails, the way of a release through the gap does not work at all."""
    install(host, 1)
    assert (host.link(), host.link("bitnet.old")) == (make_release(1).name, "")
    install(host, 2)
    host.assert_runs(make_release(2))
    host.assert_whole(make_release(1))
    assert host.link("bitnet.old") == make_release(1).name
    assert host.state()["floor"] == "0"
    answer = subprocess.run(
        [host.prefix / "opt/bitnet/bitnet-infer", "--config", "config.yaml", "--seed", "9",
         "--no-log"],
        cwd=host.prefix / "opt/bitnet", input=b"hello", capture_output=True, check=True,
    )  # fmt: skip
    assert answer.stdout == b"9hello"


def test_apply_again_does_nothing(host: Installation) -> None:
    """If this fails, a repeated command costs a release its predecessor."""
    install(host, 1, 2)
    before = host.state()
    result = host.apply(make_release(2))
    assert result.returncode == 0
    assert b"installed already" in result.stdout
    assert host.state() == before


def test_apply_names_product_counter_and_signers(host: Installation) -> None:
    """If this fails, an operator cannot write down who vouches for what he installed."""
    result = host.apply(make_release(1))
    told = result.stdout.decode()
    assert told.startswith("verified   bitnet 1.0.1, counter 1\n")
    assert "alice" in told
    assert "bob" in told
    assert f"installed  {make_release(1).name}\n" in told


def test_apply_raises_the_floor_to_what_the_release_says(host: Installation) -> None:
    """If this fails, releases with known holes stay permitted."""
    install(host, 3, minimum=2)
    assert host.state()["floor"] == "2"
    install(host, 4)
    assert host.state()["floor"] == "2"


def test_apply_needs_site_where_the_root_has_it(tmp_path: Path) -> None:
    """If this fails, a release runs on a site that did not approve it."""
    host = Installation(tmp_path)
    roles = {"site": (1, (SITE,))}
    assert host.install_root(root_file(roles=roles)).returncode == 0
    assert host.apply(make_release(1)).returncode == 3
    assert host.link() == ""
    assert host.apply(make_release(1), signers=(ALICE, BOB, SITE)).returncode == 0


# Releases that do not answer.


@pytest.mark.parametrize("mood", ["fails", "talks", "late"])
def test_apply_release_that_does_not_answer_leaves_the_old_one(
    host: Installation, mood: str
) -> None:
    """If this fails, a broken release stays in place until a person comes."""
    install(host, 1, 2)
    bad = make_release(3, 3, mood=mood)
    assert_refused(host.apply(bad), "kSelftest")
    host.assert_runs(make_release(2))
    assert host.link("bitnet.old") == make_release(1).name
    assert host.state()[bad.name].endswith(" failed")
    assert host.state()["floor"] == "0"
    host.assert_whole(bad)  # kept as evidence
    install(host, 4)
    host.assert_runs(make_release(4))


def test_apply_first_release_that_fails_late_leaves_nothing(host: Installation) -> None:
    """If this fails, a link points to a release that does not start."""
    assert_refused(host.apply(make_release(1, mood="late")), "kSelftest")
    assert host.link() == ""
    assert host.status()["doubts"] == []


def test_apply_wrong_answer_is_refused(host: Installation) -> None:
    """If this fails, the self-test compares nothing."""
    release = make_release(1, files={"selftest.answer": (0o644, b"7what is known!\n")})
    assert_refused(host.apply(release), "kSelftest")
    assert host.link() == ""


@pytest.mark.parametrize("name", ["bitnet-infer", "selftest.prompt", "selftest.answer"])
def test_apply_release_without_self_test_is_refused(host: Installation, name: str) -> None:
    """If this fails, leaving a file out of a release leaves its test out."""
    release = make_release(1)
    del release.files[name]
    assert_refused(host.apply(release), "kSelftest")
    assert host.link() == ""


def test_apply_failed_release_again_is_tried_again(host: Installation) -> None:
    """If this fails, what failed for want of memory can never be installed."""
    install(host, 1)
    release = make_release(2, mood="late")
    for _ in range(2):
        assert_refused(host.apply(release), "kSelftest")
    host.assert_runs(make_release(1))


def test_evidence_beyond_its_quota_goes_first(host: Installation) -> None:
    """If this fails, failed releases fill the disk, or the newest evidence is lost."""
    install(host, 1)
    bad = [make_release(counter, mood="fails") for counter in range(2, 8)]
    for release in bad:
        assert_refused(host.apply(release), "kSelftest")
        let_hours_pass(host, 1)
        assert host.update("recover").returncode == 0
        kept = [release for release in bad if release.name in host.folders()]
        assert kept == bad[: bad.index(release) + 1][-4:]
    install(host, 9)
    kept = [release for release in bad if release.name in host.folders()]
    assert kept == bad[-4:]


def test_apply_what_this_host_lacks_can_be_installed_when_it_has_it(host: Installation) -> None:
    """If this fails, a limit that was forgotten costs the release, or the way back."""
    install(host, 1)
    lacking = host.prefix / "opt" / "lacking"
    lacking.touch()
    new = make_release(2, mood="lacks")
    result = host.apply(new)
    assert_refused(result, "kSelftestHost")
    assert result.returncode == 5
    host.assert_runs(make_release(1))
    assert host.refusals()[0] == "0"
    lacking.unlink()
    assert host.apply(new).returncode == 0
    install(host, 3)
    lacking.touch()
    assert_refused(host.rollback(), "kSelftestHost")
    host.assert_runs(make_release(3))
    assert host.state()[new.name].endswith(" kept")
    lacking.unlink()
    assert host.rollback().returncode == 0
    host.assert_runs(new)


# Going back.


def test_rollback_goes_to_the_release_before(host: Installation) -> None:
    """If this fails, the way back is closed."""
    install(host, 1, 2)
    result = host.rollback()
    one, two = make_release(1), make_release(2)
    assert result.stdout.decode() == f"installed  {one.name}\nbefore     {two.name}\n"
    host.assert_runs(one)
    host.assert_whole(two)
    assert host.state()[two.name].endswith(" failed")


def test_rollback_twice_never_goes_forward_to_what_failed(host: Installation) -> None:
    """If this fails, a second rollback brings the bad release back."""
    install(host, 1, 2, 3)
    assert host.rollback().returncode == 0
    assert host.rollback().returncode == 0
    host.assert_runs(make_release(1))
    assert_refused(host.rollback(), "kNothingRetained")
    host.assert_runs(make_release(1))


@pytest.mark.parametrize(
    ("hours", "option", "status"),
    [
        (71, [], None),
        (73, [], "kNothingRetained"),
        (73, ["--keep-old=4d"], None),
        (23, ["--keep-old=24h"], None),
        (25, ["--keep-old=24h"], "kNothingRetained"),
        (1, ["--keep-old=0h"], "kNothingRetained"),
    ],
)
def test_rollback_retention_is_counted_on_the_own_record(
    host: Installation, hours: int, option: list[str], status: str | None
) -> None:
    """If this fails, `--keep-old` means another time than it says."""
    install(host, 1, 2)
    let_hours_pass(host, hours)
    result = host.rollback(*option)
    if status is None:
        assert result.returncode == 0, result.stderr
    else:
        assert_refused(result, status)


def test_apply_removes_what_was_replaced_longer_ago_than_the_retention(host: Installation) -> None:
    """If this fails, old releases fill the disk, or go before their time."""
    install(host, 1, 2)
    let_hours_pass(host, 70)
    install(host, 3)
    assert host.folders() == {make_release(counter).name for counter in (1, 2, 3)}
    let_hours_pass(host, 3)
    install(host, 4)
    assert host.folders() == {make_release(counter).name for counter in (2, 3, 4)}


def test_rollback_skips_a_kept_release_that_was_changed(host: Installation) -> None:
    """If this fails, a changed release runs, or one damaged file closes the way back."""
    install(host, 1, 2, 3)
    path = host.releases / make_release(2).name / "config.yaml"
    path.chmod(0o644)
    path.write_bytes(b"mood: evil\n")
    assert host.rollback().returncode == 0
    host.assert_runs(make_release(1))
    assert host.state()[make_release(2).name].endswith(" failed")


def test_rollback_reaches_the_floor_and_not_below(host: Installation) -> None:
    """If this fails, the floor is one too high, and the way back is closed."""
    install(host, 1)
    install(host, 2, minimum=2)
    install(host, 3)
    assert host.rollback().returncode == 0
    host.assert_runs(make_release(2, 2))
    assert_refused(host.rollback(), "kDowngrade")


@pytest.mark.parametrize("changed", ["content", "signers"])
def test_recovery_of_a_switch_verifies_the_release_again(host: Installation, changed: str) -> None:
    """If this fails, whoever can write while the power is off decides what runs afterwards."""
    install(host, 1)
    new = make_release(2)
    bundle = host.lay_down(new)
    wrap = (installed("strace"), "-o", "/dev/null", "-e", "inject=symlinkat:signal=SIGKILL:when=1")
    host.run("bitnet-update", "apply", bundle, wrap=wrap)
    assert host.state()["trial"] == new.name
    name = "config.yaml" if changed == "content" else "update.sig"
    path = host.releases / new.name / name
    path.chmod(0o644)
    signed = container(new.statement, (ALICE,))
    path.write_bytes(b"mood: evil\n" if changed == "content" else signed)
    assert host.update("recover").returncode == 0
    host.assert_runs(make_release(1))
    assert host.state()[new.name].endswith(" failed")
    events = [line.split(" ")[3] for line in (host.releases / "log").read_text().splitlines()]
    assert events[-1] == "restored"


def test_rollback_release_of_revoked_keys_is_refused(host: Installation) -> None:
    """If this fails, a revocation does not reach what is kept."""
    install(host, 1, 2)
    people = (1, (BOB, CAROL))
    new = root_file(2, roles={"root": people, "release": people}, revoked=[ALICE],
                    signers=(ALICE, BOB, CAROL))  # fmt: skip
    assert host.install_root(new, None).returncode == 0, host.install_root(new, None).stderr
    two = Installation.rollback(host)
    assert two.returncode == 0  # bob alone is enough now
    people = (1, (CAROL,))
    new = root_file(3, roles={"root": people, "release": people}, revoked=[ALICE, BOB],
                    signers=(BOB, CAROL))  # fmt: skip
    assert host.install_root(new, None).returncode == 0
    install_result = host.apply(make_release(3), signers=(CAROL,))
    assert install_result.returncode == 0
    assert host.rollback().returncode == 3
    host.assert_runs(make_release(3))


# The trust root.


def test_root_first_needs_the_digest_that_a_person_compared(tmp_path: Path) -> None:
    """If this fails, whoever hands in the first root owns the host."""
    host = Installation(tmp_path)
    assert_refused(host.install_root(root_file(), None), "kRootMissing")
    assert_refused(host.install_root(root_file(), "0" * 96), "kRootDigest")
    assert_refused(host.install_root(root_file(signers=(ALICE,))), "kSignaturesTooFew")
    assert_refused(host.apply(make_release(1)), "kRootMissing")
    assert host.install_root(root_file()).returncode == 0


def test_root_next_follows_by_version_and_both_thresholds(host: Installation) -> None:
    """If this fails, roots can be skipped, repeated or taken over by new keys alone."""
    assert_refused(host.install_root(root_file(3), None), "kRootVersion")
    other = {"root": (1, (SITE,)), "release": (1, (SITE,))}
    new = root_file(2, roles=other, signers=(SITE,))
    assert host.install_root(new, None).returncode == 3
    new = root_file(2, roles=other, signers=(ALICE, BOB))
    assert host.install_root(new, None).returncode == 3
    new = root_file(2, roles=other, signers=(ALICE, BOB, SITE))
    assert host.install_root(new, None).returncode == 0
    assert (host.prefix / "etc/bitnet/trust.root").read_bytes() == new
    assert host.install_root(new, None).stdout == b"installed already  version 2\n"
    assert host.apply(make_release(1)).returncode == 3
    assert host.apply(make_release(1), signers=(SITE,)).returncode == 0


def test_root_changed_on_disk_is_noticed_and_can_be_put_back(host: Installation) -> None:
    """If this fails, who can write one file in /etc decides what is trusted."""
    install(host, 1)
    path = host.prefix / "etc/bitnet/trust.root"
    own = path.read_bytes()
    path.unlink()
    path.write_bytes(root_file(2))
    assert_refused(host.apply(make_release(2)), "kRootChanged")
    assert_refused(host.install_root(root_file(2), None), "kRootChanged")
    assert host.install_root(own, None).returncode == 0
    assert path.read_bytes() == own
    install(host, 2)


def test_root_digest_is_that_of_the_statement_whoever_has_signed(tmp_path: Path) -> None:
    """If this fails, the digest on paper changes with every signature that is gathered."""
    host = Installation(tmp_path)
    all_three = root_file(signers=(ALICE, BOB, CAROL))
    digest = hashlib.sha384(statement_of(root_file())).hexdigest()
    assert host.install_root(all_three, digest).returncode == 0
    assert host.install_root(root_file(), None).stdout == b"installed already  version 1\n"
    assert host.state()["root"] == f"1 {digest}"


def test_root_that_is_lost_gives_way_to_another_by_its_digest(host: Installation) -> None:
    """If this fails, a site whose root keys are lost can never be updated again."""
    install(host, 1)
    (host.prefix / "etc/bitnet/trust.root").unlink()
    people = (1, (SITE,))
    new = root_file(roles={"root": people, "release": people}, signers=(SITE,))
    assert_refused(host.install_root(new, None), "kRootChanged")
    assert_refused(host.install_root(new, "0" * 96), "kRootDigest")
    assert_refused(host.apply(make_release(2), signers=(SITE,)), "kRootChanged")
    assert host.install_root(new).returncode == 0
    host.assert_runs(make_release(1))
    assert host.apply(make_release(2)).returncode == 3
    assert host.apply(make_release(2), signers=(SITE,)).returncode == 0


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_root_that_is_no_file_is_a_changed_root(host: Installation, kind: str) -> None:
    """If this fails, the operator looks for a broken disk."""
    path = host.prefix / "etc/bitnet/trust.root"
    own = path.read_bytes()
    path.unlink()
    if kind == "link":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()
    assert_refused(host.apply(make_release(1)), "kRootChanged")
    if kind == "folder":
        path.rmdir()
    assert host.install_root(own, None).returncode == 0
    install(host, 1)


# The record.


def chained(log: bytes) -> str:
    """Follows the log as docs/formats/release.md says; returns the last digest."""
    head = bytes(48)
    for number, line in enumerate(log.splitlines(), 1):
        text, digest = line[:-96], line[-96:]
        head = hashlib.sha384(head + text).digest()
        assert head.hex().encode() == digest
        assert text.split(b" ")[0] == str(number).encode()
    return head.hex()


def test_log_is_a_chain_that_anyone_can_follow(host: Installation) -> None:
    """If this fails, an auditor cannot check the log without our programs."""
    install(host, 1, 2)
    assert host.rollback().returncode == 0
    log = (host.releases / "log").read_bytes()
    lines, count, head = host.state()["log"].split()
    assert (int(lines), int(count), head) == (len(log.splitlines()), len(log), chained(log))
    events = [line.split(b" ")[3].decode() for line in log.splitlines()]
    assert events == ["root", *["trial", "installed"] * 3]
    told = host.update("verify-log").stdout
    assert told == f"verified   {lines} lines, head {head}\n".encode()


def with_other_digit(line: bytes) -> bytes:
    """The line with another last digit of the digest that ends it."""
    return line[:-2] + (b"1" if line[-2:-1] == b"0" else b"0") + line[-1:]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0].replace(b"root", b"toor"), *lines[1:]],
        lambda lines: lines[:-1],
        lambda lines: [*lines[:1], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:2], lines[1], *lines[2:]],
        lambda _: [],
        lambda lines: [with_other_digit(lines[0]), *lines[1:]],
    ],
    ids=["edited", "cut", "deleted", "reordered", "inserted", "emptied", "other digest"],
)
def test_log_that_was_changed_is_noticed(
    host: Installation, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    """If this fails, traces can be removed from the log."""
    install(host, 1)
    path = host.releases / "log"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    assert_refused(host.update("verify-log"), "kUpdateLog")
    assert host.status()["doubts"] == ["the log does not fit its chain"]
    install(host, 2)  # a doubt, not a reason to stay on an old release


def test_status_doubts_links_and_clocks(host: Installation) -> None:
    """If this fails, status says that all is well where it is not."""
    install(host, 1, 2)
    assert host.status()["doubts"] == []
    link = host.prefix / "opt" / "bitnet"
    link.unlink()
    link.symlink_to(f"bitnet.d/{make_release(1).name}")
    assert len(host.status()["doubts"]) == 1
    assert host.update("recover").returncode == 0
    host.assert_runs(make_release(2))
    ahead = r"^(time \S+ \d+) (\d+)"
    edit_state(host, lambda text: re.sub(
        ahead, lambda match: f"{match[1]} {int(match[2]) + 9999}", text, flags=re.MULTILINE
    ))  # fmt: skip
    install(host, 3)
    assert host.status()["doubts"] == ["the clock on the wall was set back"]


@pytest.mark.parametrize(
    ("found", "placed"),
    [
        ("bitnet-state v1", "bitnet-state v2"),
        ("floor 0", "floor 00"),
        ("floor 0", "floor 9223372036854775808"),
        ("trial -", "trial 9-0123456789abcdef"),
        ("trial -", "trial ../../x"),
        ("current 1", "current 5"),
        ("kept\n", "kept"),
        ("kept\n", "kept\nrelease\n"),
        ("\nold -", ""),
    ],
)
def test_state_that_is_not_in_its_one_form_is_refused(
    host: Installation, found: str, placed: str
) -> None:
    """If this fails, a damaged record decides what runs."""
    install(host, 1)
    edit_state(host, lambda text: text.replace(found, placed))
    for result in (host.apply(make_release(2)), host.update("status"), host.rollback()):
        assert result.returncode == 3, result.stderr
    assert host.link() == make_release(1).name


def test_second_update_at_the_same_time_is_refused(host: Installation) -> None:
    """If this fails, two updates write over each other."""
    with (host.releases / "lock").open("r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        assert_refused(host.apply(make_release(1)), "kBusy")
    install(host, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["apply"], ["apply", "x", "--sig"], ["status", "more"], ["remove"], [],
        ["root", "install"], ["root", "install", "x", "--digest", "xyz"], ["apply", "-x"],
        ["root", "install", "x", "--digest", "0" * 95], ["apply", "a", "--sig", "b", "--sig", "c"],
    ],
)  # fmt: skip
def test_usage_errors_are_told(host: Installation, arguments: list[str]) -> None:
    """If this fails, a mistyped command does something."""
    before = host.state()
    assert host.update(*arguments).returncode == 2
    assert host.state() == before


@pytest.mark.parametrize("option", ["--keep-old=", "--keep-old=1", "--keep-old=123456h", "--x",
                                    "--keep-old=1w", "--order"])  # fmt: skip
def test_rollback_usage_errors_are_told(host: Installation, option: str) -> None:
    """If this fails, a mistyped retention removes releases."""
    install(host, 1, 2)
    assert host.rollback(option).returncode == 2
    host.assert_runs(make_release(2))
