"""Attacks on an installation: older releases, archives that lie, media that are not whole.

Each is named after the case of tuf-conformance that it mirrors, where there is one.
"""

import hashlib
import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.support import publisher
from tests.support.installation import (
    ALICE,
    BOB,
    CAROL,
    SITE,
    Installation,
    Result,
    make_release,
    root_file,
)
from tests.support.publisher import Release, tar_header
from tests.support.status_table import status_rows

conformance = pytest.mark.conformance


@pytest.fixture
def host(tmp_path: Path) -> Installation:
    """An installation with a root and release 2, whose floor is 2."""
    host = Installation(tmp_path)
    assert host.install_root(root_file()).returncode == 0
    result = host.apply(make_release(2, 2))
    assert result.returncode == 0, result.stderr
    host.installed = host.snapshot()
    return host


def assert_refused(result: Result, status: str) -> None:
    """The programs told exactly this refusal, with its exit code."""
    row = status_rows()[status]
    assert result.stderr.decode().splitlines()[-1:] != [], result.stdout
    told = [line for line in result.stderr.decode().splitlines() if line.startswith("error: ")]
    assert told and told[0].startswith(f"error: {row.text}"), result.stderr
    assert result.returncode == row.exit_code


def assert_unmoved(host: Installation, release: Release | None = None) -> None:
    """What ran before runs, whole; of the attack nothing is on the disk but that it was refused.

    Args:
        host: What was attacked.
        release: What it ran, where something was installed since the fixture.
    """
    host.assert_runs(release or make_release(2, 2))
    assert ".incoming" not in host.folders()
    if release is None:
        assert host.snapshot() == host.installed
        assert int(host.refusals()[0]) > 0


# Older releases.


@conformance("test_new_targets_version_rollback", "an older release, validly signed")
def test_apply_older_release_is_refused(host: Installation) -> None:
    """If this fails, an old release with known holes can be put back by whoever has its bundle."""
    assert_refused(host.apply(make_release(1)), "kDowngrade")
    assert_unmoved(host)


@conformance("test_new_targets_version_rollback", "another release with the same counter")
def test_apply_same_counter_other_content_is_refused(host: Installation) -> None:
    """If this fails, two releases share a counter and one can stand in for the other."""
    other = make_release(2, 2, files={"note": (0o644, b"other")})
    assert_refused(host.apply(other), "kDowngrade")
    assert_unmoved(host)


@conformance("test_new_timestamp_version_rollback", "all pairs of releases, replayed")
@pytest.mark.parametrize(("installed", "replayed"), list(itertools.product(range(2, 6), repeat=2)))
def test_replay_matrix_only_newer_is_taken(tmp_path: Path, installed: int, replayed: int) -> None:
    """If this fails, some release can be replaced by one that is not newer."""
    host = Installation(tmp_path)
    assert host.install_root(root_file()).returncode == 0
    assert host.apply(make_release(installed)).returncode == 0
    result = host.apply(make_release(replayed))
    if replayed < installed:
        assert_refused(result, "kDowngrade")
        host.assert_runs(make_release(installed))
    else:
        assert result.returncode == 0
        host.assert_runs(make_release(replayed))


@conformance("test_new_snapshot_version_rollback", "rollback below the floor without an order")
def test_rollback_below_floor_is_refused(host: Installation) -> None:
    """If this fails, the floor that a release sets can be passed under with a kept release."""
    assert host.apply(make_release(3, 3)).returncode == 0
    assert_refused(host.rollback(), "kDowngrade")
    assert_unmoved(host, make_release(3, 3))


@conformance("test_snapshot_rollback", "the record is removed, to forget the floor")
def test_apply_without_state_is_refused(host: Installation) -> None:
    """If this fails, removing one file makes the host accept any old release."""
    (host.releases / "state").unlink()
    assert_refused(host.apply(make_release(3)), "kStateMissing")
    assert host.link() == make_release(2, 2).name


# A huge counter, and the way back.


@conformance("test_timestamp_fast_forward_recovery", "a counter that no later release can reach")
def test_fast_forward_is_recovered_by_order_below_the_floor(host: Installation) -> None:
    """If this fails, one bad release stops a host from ever being updated again."""
    huge = make_release(2**62, 2**62)
    assert host.apply(huge).returncode == 0
    assert_refused(host.apply(make_release(3)), "kDowngrade")
    assert_refused(host.rollback(), "kDowngrade")
    result = host.rollback("--order", host.order(make_release(2, 2), 2**62))
    assert result.returncode == 0, result.stderr
    assert host.state()["floor"] == "2"
    assert host.apply(make_release(3)).returncode == 0
    assert_unmoved(host, make_release(3))


@conformance("test_snapshot_fast_forward_recovery", "the same, where nothing below was kept")
def test_fast_forward_is_recovered_by_order_with_a_bundle(tmp_path: Path) -> None:
    """If this fails, a host whose first release had a huge counter is lost."""
    host = Installation(tmp_path)
    assert host.install_root(root_file()).returncode == 0
    huge = make_release(2**62, 2**62)
    assert host.apply(huge).returncode == 0
    order = host.order(make_release(3), 2**62)
    result = host.apply(make_release(3), "--order", order)
    assert result.returncode == 0, result.stderr
    assert host.state()["floor"] == "3"
    assert_unmoved(host, make_release(3))


@conformance("test_targets_fast_forward_recovery", "stolen keys made it: the root replaces them")
def test_fast_forward_by_revoked_keys_is_recovered_by_the_new_ones(host: Installation) -> None:
    """If this fails, whoever stole the release keys keeps the host after they were revoked."""
    huge = make_release(2**62, 2**62)
    assert host.apply(huge).returncode == 0
    roles = {"release": (1, (SITE,)), "root": (2, (ALICE, BOB, CAROL))}
    assert host.install_root(root_file(2, roles=roles), None).returncode == 0
    stolen = host.order(make_release(2, 2), 2**62)
    assert_refused(host.rollback("--order", stolen), "kSignersUnknown")
    order = host.order(make_release(2, 2), 2**62, signers=(SITE,))
    assert host.rollback("--order", order).returncode == 0
    host.assert_runs(make_release(2, 2))


# Orders.


@conformance("test_new_root_version_rollback", "orders for another step, product or content")
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"from_": 4}, "kOrder"), ({"product": "other"}, "kOrder"),
        ({"digest": "0" * 96}, "kNothingRetained"), ({"to": 1}, "kNothingRetained"),
    ],
    ids=["from", "product", "digest", "to"],
)  # fmt: skip
def test_order_for_another_step_is_refused(
    host: Installation, changes: dict[str, object], status: str
) -> None:
    """If this fails, an order that was signed for one step opens another."""
    assert host.apply(make_release(3, 3)).returncode == 0
    values = {"from_": 3} | changes
    order = host.order(make_release(2, 2), **values)  # type: ignore[arg-type]
    assert_refused(host.rollback("--order", order), status)
    assert_unmoved(host, make_release(3, 3))


@conformance("test_new_root_version_rollback", "an order for one bundle, handed in with another")
@pytest.mark.parametrize("other", ["counter", "content"])
def test_order_for_another_bundle_is_refused(tmp_path: Path, other: str) -> None:
    """If this fails, any order that is valid here installs every older release ever signed."""
    host = Installation(tmp_path)
    assert host.install_root(root_file()).returncode == 0
    assert host.apply(make_release(3, 3)).returncode == 0
    order = host.order(make_release(2, 2), 3)
    old = make_release(1) if other == "counter" else make_release(2, 2, seed=8)
    before = host.snapshot()
    assert_refused(host.apply(old, "--order", order), "kOrder")
    assert host.snapshot() == before
    host.assert_runs(make_release(3, 3))
    assert host.apply(make_release(2, 2), "--order", order).returncode == 0


@conformance("test_root_has_keys_but_not_threshold", "an order by too few")
def test_order_by_too_few_is_refused(host: Installation) -> None:
    """If this fails, one person can force a host below its floor."""
    assert host.apply(make_release(3, 3)).returncode == 0
    order = host.order(make_release(2, 2), 3, signers=(ALICE,))
    assert_refused(host.rollback("--order", order), "kSignaturesTooFew")
    assert_unmoved(host, make_release(3, 3))


@conformance("test_unsigned_metadata", "a trust root or a release handed in as an order")
def test_statement_of_another_kind_is_no_order(host: Installation) -> None:
    """If this fails, a signature given for one purpose serves another."""
    assert host.apply(make_release(3, 3)).returncode == 0
    for data in (root_file(2), publisher.container(make_release(2, 2).statement, (ALICE, BOB))):
        path = host.folder / "no.order"
        path.write_bytes(data)
        assert_refused(host.rollback("--order", path), "kStatementKind")
    assert_unmoved(host, make_release(3, 3))


# Software for someone else.


@conformance("test_wrong_software (TUF 1.5.2)", "a release for another product or processor")
@pytest.mark.parametrize("changes", [{"product": "other"}, {"architecture": "riscv64"}])
def test_release_for_another_host_is_refused(host: Installation, changes: dict[str, str]) -> None:
    """If this fails, a validly signed release of something else is installed here."""
    release = make_release(3)
    for key, value in changes.items():
        setattr(release, key, value)
    assert_refused(host.apply(release), "kProduct")
    assert_unmoved(host)


# Archives that are not what the signed manifest says.


def changed(release: Release, change: Callable[[list[bytes]], list[bytes]]) -> Release:
    """A release whose archive differs; its signature is over what differs."""
    release.tar = release.join(change(release.entries()))
    return release


def _link(kind: bytes) -> Callable[[list[bytes]], list[bytes]]:
    header = tar_header(b"config.yaml", 0o644, 0, kind, b"/etc/passwd")
    return lambda entries: [*entries[:2], header, *entries[3:]]


def _renamed(name: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda entries: [
        *entries[:2], tar_header(name, 0o644, 23) + entries[2][512:], *entries[3:],
    ]  # fmt: skip


ARCHIVES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "truncated": lambda entries: entries[:-1],
    "extended": lambda entries: [*entries, tar_header(b"zz", 0o644, 0)],
    "duplicated": lambda entries: [*entries[:2], entries[1], *entries[2:]],
    "reordered": lambda entries: [entries[0], entries[2], entries[1], *entries[3:]],
    "manifest last": lambda entries: [*entries[1:], entries[0]],
    "symbolic link": _link(b"2"),
    "hard link": _link(b"1"),
    "character device": _link(b"3"),
    "block device": _link(b"4"),
    "folder": _link(b"5"),
    "pipe": _link(b"6"),
    "long name": _link(b"L"),
    "pax header": _link(b"x"),
    "absolute path": _renamed(b"/etc/cron.d/x"),
    "parent path": _renamed(b"../../etc/x"),
    "folder in name": _renamed(b"bin/config.yaml"),
    "other owner": lambda entries: [
        entries[0].replace(b"0000000\0" * 2, b"0001000\0" * 2, 1), *entries[1:],
    ],
    "set-user-id": lambda entries: [
        entries[0], entries[1].replace(b"0000755\0", b"0004755\0", 1), *entries[2:],
    ],
    "padding not zero": lambda entries: [*entries[:-1], entries[-1][:-1] + b"x"],
}  # fmt: skip


@conformance("test_target_hash (archive)", "an archive that is not what its manifest says")
@pytest.mark.parametrize("name", ARCHIVES)
def test_archive_unlike_manifest_is_refused(host: Installation, name: str) -> None:
    """If this fails, an archive decides what is written where, with what type and mode."""
    release = changed(make_release(3), ARCHIVES[name])
    result = host.apply(release)
    assert result.returncode == 3, result.stderr
    told = result.stderr.decode()
    assert any(f": `{entry}`\n" in told for entry in ("MANIFEST", *release.files)), told
    assert any(
        status_rows()[status].text in told for status in ("kArchiveEntry", "kArchiveLength")
    ), told
    assert_unmoved(host)


@conformance("test_target_hash (content)", "a file with the right header and other bytes")
def test_archive_with_other_content_is_refused(host: Installation) -> None:
    """If this fails, signed bytes and installed bytes differ."""
    release = make_release(3)
    entries = release.entries()
    entries[2] = entries[2].replace(b"mood: well", b"mood: evil")
    release.tar = release.join(entries)
    result = host.apply(release)
    assert_refused(result, "kReleaseFile")
    assert b"`config.yaml`" in result.stderr
    assert_unmoved(host)


@conformance("test_max_target_length (bomb)", "frames that grow beyond what is signed")
def test_bomb_is_refused_before_it_unfolds(host: Installation) -> None:
    """If this fails, a small bundle fills the disk."""
    release = make_release(3)
    release.tar = release.archive() + bytes(64 << 20)
    assert len(release.compressed()) < 1 << 20
    assert_refused(host.apply(release), "kArchiveLength")
    # The same with a head that lies about the size: a frame of one byte less or more.
    whole = make_release(3).archive()
    for size in (len(whole) - 1, len(whole) + 1):
        release = make_release(3)
        frame = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(whole))
        assert frame[4] & 0xE0 in (0x60, 0xA0)  # content size in two or four bytes
        width, base = (2, 256) if frame[4] & 0xE0 == 0x60 else (4, 0)
        frame[5 : 5 + width] = struct.pack("<I", size - base)[:width]
        release.bundle = bytes(frame)
        assert host.apply(release).returncode == 3
    assert_unmoved(host)


@conformance("test_max_target_length (frame)", "not one frame: nothing, two, or something behind")
@pytest.mark.parametrize("name", ["no frame", "two frames", "skippable", "cut", "large window"])
def test_bundle_that_is_not_one_frame_is_refused(host: Installation, name: str) -> None:
    """If this fails, what the decompressor does with odd input decides what is installed."""
    release = make_release(3)
    frame = release.compressed()
    settings = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=27, write_content_size=0
    )
    window = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    release.bundle = {
        "no frame": release.archive(),
        "two frames": frame + frame,
        "skippable": frame + b"\x50\x2a\x4d\x18\x04\0\0\0abcd",
        "cut": frame[:-20],
        "large window": window.compress(release.archive()) + window.flush(),
    }[name]
    result = host.apply(release)
    assert result.returncode == 3, result.stderr
    assert_unmoved(host)


# Media.


@conformance("test_target_hash", "a bundle that was changed, cut or extended after signing")
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda _: b"",
    ],
    ids=["cut", "extended", "one bit", "empty"],
)
def test_bundle_changed_after_signing_is_refused(
    host: Installation, change: Callable[[bytes], bytes]
) -> None:
    """If this fails, bytes that nobody signed reach the decompressor."""
    assert_refused(host.apply(make_release(3), change=change), "kBundleDigest")
    assert_unmoved(host)


@conformance("test_mix_and_match", "bundle of one release, signatures of another")
def test_mixed_files_of_two_releases_are_refused(host: Installation) -> None:
    """If this fails, two valid releases can be mixed into one that nobody made."""
    bundle = host.lay_down(make_release(4))
    kept = bundle.read_bytes()
    bundle = host.lay_down(make_release(3))
    bundle.write_bytes(kept)
    assert_refused(host.update("apply", bundle), "kBundleDigest")
    assert_unmoved(host)


@conformance("test_partial_download", "parts that are missing, damaged, foreign or doubled")
def test_parts_any_order_are_joined_and_missing_ones_are_named(host: Installation) -> None:
    """If this fails, an operator does not know which disc to fetch, or a wrong one is taken."""
    release = make_release(3)
    bundle = host.lay_down(release)
    data = bundle.read_bytes()
    bundle.unlink()
    parts = publisher.part_files(data, [700, 600, 500])
    foreign = publisher.part_files(b"x" * 2000, [700, 600, 500])
    names = list(parts)

    def lay(wanted: dict[str, bytes]) -> Result:
        for path in host.medium.glob("*.part-*"):
            path.unlink()
        for name, content in wanted.items():
            (host.medium / name).write_bytes(content)
        return host.update("apply", host.medium)

    result = lay({name: parts[name] for name in names[1:3]})
    assert_refused(result, "kParts")
    assert b"missing  part 1 of 4\nmissing  part 4 of 4\n" in result.stderr
    damaged = parts | {names[2]: parts[names[2]][:-1] + b"?"}
    result = lay(damaged)
    assert_refused(result, "kParts")
    assert b"damaged  part 3 of 4\n" in result.stderr
    assert b"missing" not in result.stderr.split(b"error:")[0]
    result = lay(parts | {names[0]: parts[names[0]] + b"more"})
    assert_refused(result, "kParts")
    assert b"damaged  part 1 of 4\n" in result.stderr
    result = lay({names[0]: parts[names[0]], "other.part-1": foreign[names[1]],
                  "again.part-9": parts[names[0]]})  # fmt: skip
    assert_refused(result, "kParts")
    assert b"not parts of this bundle, or there twice: 2\n" in result.stderr
    assert_refused(lay(foreign), "kParts")
    result = lay({f"{'p' * 60}.part-1": parts[names[0]]})  # longer than what is looked for
    assert_refused(result, "kParts")
    assert b"not parts of this bundle, or there twice: 1\n" in result.stderr
    assert_unmoved(host)
    lay(parts | {"zz.part-1": foreign[names[1]]})
    host.assert_runs(release)


@conformance("test_partial_download", "part heads that lie about place, size or count")
def test_parts_with_lying_heads_are_refused(host: Installation) -> None:
    """If this fails, a head that nobody signed decides what is read from where."""
    bundle = host.lay_down(make_release(3))
    data = bundle.read_bytes()
    bundle.unlink()
    good = list(publisher.part_files(data, [1000]).values())
    digest = hashlib.sha384(data).hexdigest()
    for numbers in ("1 2 1 1000", "1 2 0 999999999", "1 9999 0 1000", "0 2 0 1000", "3 2 0 1000",
                    "1 2 0 0", "1 2 00 1000", "1 2 0 9223372036854775807"):  # fmt: skip
        head = f"bitnet-part v1\nbundle {digest} {len(data)}\npart {numbers}\n".encode()
        sha = hashlib.sha384(good[0][512:]).hexdigest()
        lying = (head + f"data {sha}\n".encode()).ljust(512, b"\n") + good[0][512:]
        (host.medium / "a.part-1").write_bytes(lying)
        (host.medium / "a.part-2").write_bytes(good[1])
        result = host.update("apply", host.medium)
        assert_refused(result, "kParts")
    assert_unmoved(host)


@conformance("test_signed_root_only", "signatures without a bundle")
def test_statement_without_bundle_is_refused(host: Installation) -> None:
    """If this fails, an archive is decompressed that no signature names."""
    assert_refused(host.apply(make_release(3, with_bundle=False)), "kNoBundle")
    assert_unmoved(host)
