"""Bundles in parts for write-once media."""

import hashlib
import io
import random
from pathlib import Path

import pytest

from bitnet.errors import BundleError, IntegrityError, UsageError
from bitnet.release.archive import BundleDigest
from bitnet.release.parts import (
    join_parts,
    parse_part,
    parse_size,
    part_name,
    plan_parts,
    read_part,
    write_parts,
)

DATA = random.Random(5).randbytes(100_000)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    bundle = tmp_path / "bitnet-v2.1.0.tar.zst"
    bundle.write_bytes(DATA)
    digest = BundleDigest(hashlib.sha384(DATA).hexdigest(), len(DATA))
    return write_parts(bundle, digest, plan_parts(len(DATA), 32768), tmp_path)


def test_parts_are_named_numbered_and_smaller_than_asked(parts: list[Path]) -> None:
    """FAT takes no file of 4 GiB: the size asked for must not be reached."""
    assert [path.name for path in parts] == [
        f"bitnet-v2.1.0.tar.zst.part-00{index}-of-004" for index in (1, 2, 3, 4)
    ]
    sizes = [path.stat().st_size for path in parts]
    assert sizes[:3] == [32768 - 512] * 3
    assert b"".join(path.read_bytes()[512:] for path in parts) == DATA
    assert (4 << 30) - 512 < 1 << 32


def test_parts_in_any_order_make_the_bundle(parts: list[Path]) -> None:
    """Discs come back in the order in which they are found."""
    random.Random(1).shuffle(parts)
    output = io.BytesIO()
    assert join_parts(parts, output).size == len(DATA)
    assert output.getvalue() == DATA


def test_parts_missing_are_listed(parts: list[Path]) -> None:
    """The operator has to know which disc to ask for again."""
    with pytest.raises(BundleError, match="parts are missing") as caught:
        join_parts([parts[0], parts[3]], io.BytesIO())
    assert caught.value.where == ("part 2 of 4", "part 3 of 4")
    with pytest.raises(BundleError, match="no part is given"):
        join_parts([], io.BytesIO())


@pytest.mark.parametrize("offset", [512, 20_000, -1])
def test_part_that_is_damaged_is_named(parts: list[Path], offset: int) -> None:
    """One bad disc must not spoil the others."""
    data = bytearray(parts[1].read_bytes())
    data[offset] ^= 1
    parts[1].write_bytes(data)
    with pytest.raises(IntegrityError, match="part is damaged") as caught:
        join_parts(parts, io.BytesIO())
    assert parts[1].name in caught.value.message


def test_part_shorter_or_longer_is_damaged(parts: list[Path]) -> None:
    """A copy that broke off must be found by the part alone."""
    data = parts[2].read_bytes()
    for changed in (data[:-1], data + b"x", data[:512]):
        parts[2].write_bytes(changed)
        with pytest.raises(IntegrityError, match="part is damaged"):
            read_part(parts[2])
    parts[2].write_bytes(data[:511])
    with pytest.raises(BundleError, match="part is too short"):
        read_part(parts[2])


def test_part_of_another_bundle_is_refused(parts: list[Path], tmp_path: Path) -> None:
    """Two shipments on one desk must not be mixed."""
    other = tmp_path / "other"
    other.write_bytes(DATA + b"x")
    digest = BundleDigest(hashlib.sha384(DATA + b"x").hexdigest(), len(DATA) + 1)
    foreign = write_parts(other, digest, plan_parts(len(DATA) + 1, 32768), tmp_path)
    with pytest.raises(BundleError, match="part is of another bundle"):
        join_parts([*parts[:3], foreign[3]], io.BytesIO())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"bitnet-part v1", b"bitnet-part v2"),
        (b"part 2 4", b"part 5 4"),
        (b"part 2 4", b"part 0 4"),
        (b"part 2 4", b"part 02 4"),
        (b"part 2 4 31744", b"part 2 4 99999999"),
        (b"\n\n", b"\n "),
        (b"bundle ", b"bundle  "),
    ],
)
def test_part_with_another_header_is_refused(parts: list[Path], old: bytes, new: bytes) -> None:
    """The header is not covered by the data's digest, so it has one form."""
    header = parts[1].read_bytes()[:512]
    assert old in header
    with pytest.raises(BundleError):
        parse_part(header.replace(old, new, 1)[:512].ljust(512, b"\n"))


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 << 30), ("700MB", 700_000_000), ("2048", 2048)]
)
def test_size_any_is_understood(text: str, size: int) -> None:
    """Media are sold in both kinds of units."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4gib", "-1", "1.5GiB", "0", "GiB", "4 GiB"])
def test_size_unclear_is_refused(text: str) -> None:
    """A guess would be found out in front of the burner."""
    with pytest.raises(UsageError, match="size is not understood"):
        parse_size(text)


@pytest.mark.parametrize(("size", "fact"), [(1024, "least 1025 bytes"), (1100, "limit 999")])
def test_size_too_small_is_refused(size: int, fact: str) -> None:
    """The file names have three digits."""
    with pytest.raises(UsageError) as caught:
        plan_parts(100_000, size)
    assert fact in caught.value.where[0]


def test_part_names_sort_by_number() -> None:
    """A listing shows them in order."""
    names = [part_name("b", index, 12) for index in range(1, 13)]
    assert names == sorted(names)


def test_part_name_that_the_gap_would_not_see_is_refused(tmp_path: Path) -> None:
    """The operator would be told that there are no parts, and not why."""
    bundle = tmp_path / f"{'p' * 36}-v2.1.0.tar.zst"
    bundle.write_bytes(DATA)
    digest = BundleDigest(hashlib.sha384(DATA).hexdigest(), len(DATA))
    with pytest.raises(UsageError, match="name of a part is too long"):
        write_parts(bundle, digest, plan_parts(len(DATA), 32768), tmp_path)
    assert list(tmp_path.iterdir()) == [bundle]
