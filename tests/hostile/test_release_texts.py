"""Hostile keys, containers, manifests, roots, orders: each refused by name, nothing else raised."""

import functools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet.errors import FormatError, SignatureError, ToolkitError
from bitnet.release.container import parse_container
from bitnet.release.keys import parse_public_key
from bitnet.release.manifest import parse_manifest
from bitnet.release.parts import Part, parse_part
from bitnet.release.provenance import parse_provenance
from bitnet.release.sealed_key import open_key
from bitnet.release.statements import (
    RollbackOrder,
    UpdateStatement,
    parse_rollback_order,
    parse_update_statement,
)
from bitnet.release.trust import accept_update, parse_trust_root
from tests.support.release import BundleDigest, make_key, make_manifest, make_root, sign_all

ALICE, BOB = make_key("alice"), make_key("bob")
ROOT = make_root(1, root=(1, (ALICE,)), release=(2, (ALICE, BOB)), revoked=(make_key("carol"),))
UPDATE = UpdateStatement(make_manifest(), "a" * 96, 5)
ORDER = RollbackOrder("bitnet", 7, 2, "a" * 96, "broken")
PART = Part(BundleDigest("a" * 96, 1000), 2, 3, 100, 200, "b" * 96)


@functools.cache
def signed() -> bytes:
    return sign_all(UPDATE.emit(), ALICE, BOB).emit()


PARSERS: dict[str, tuple[Callable[[bytes], object], Callable[[], bytes]]] = {
    "public key": (parse_public_key, ALICE.public.emit),
    "container": (parse_container, signed),
    "manifest": (parse_manifest, UPDATE.manifest.emit),
    "update": (parse_update_statement, UPDATE.emit),
    "root": (parse_trust_root, ROOT.emit),
    "order": (parse_rollback_order, ORDER.emit),
    "part": (parse_part, PART.emit),
    "provenance": (parse_provenance, lambda: b'{"predicateType": "x", "predicate": {}}'),
}


@st.composite
def mutations(draw: st.DrawFn, original: bytes) -> bytes:
    """Returns a text with a few bytes changed, cut, doubled, or lines exchanged."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "drop", "line", "swap"]))
        if kind == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        else:
            lines = bytes(data).splitlines(keepends=True)
            index = draw(st.integers(0, max(0, len(lines) - 1)))
            if kind == "line" and lines:
                lines.insert(index, lines[draw(st.integers(0, len(lines) - 1))])
            elif lines:
                lines.append(lines.pop(index))
            data = bytearray(b"".join(lines))
    return bytes(data)


@pytest.mark.parametrize("name", list(PARSERS))
@given(st.data())
@settings(max_examples=150)
def test_text_mutated_is_read_or_refused_by_name(name: str, draws: st.DataObject) -> None:
    """A parser that falls over on a damaged file is one that an attacker can lead."""
    parse, emit = PARSERS[name]
    data = draws.draw(mutations(emit()))
    try:
        value = parse(data)
    except ToolkitError:
        return
    if hasattr(value, "emit"):
        assert value.emit() == data


@pytest.mark.parametrize("name", list(PARSERS))
@given(data=st.binary(max_size=300))
@settings(max_examples=60)
def test_text_of_random_bytes_is_refused_by_name(name: str, data: bytes) -> None:
    """Noise is not a release."""
    with pytest.raises(ToolkitError):
        PARSERS[name][0](data)


@given(st.integers(0, 1 << 30), st.integers(1, 255))
@settings(max_examples=400)
def test_container_with_any_byte_changed_is_not_trusted(place: int, change: int) -> None:
    """Every byte of update.sig is either checked for form or signed."""
    data = bytearray(signed())
    data[place % len(data)] ^= change
    with pytest.raises((FormatError, SignatureError)):
        accept_update(ROOT, parse_container(bytes(data)))


def test_container_unchanged_is_trusted() -> None:
    """The counterpart of the test above."""
    assert accept_update(ROOT, parse_container(signed()))[0] == UPDATE


MANIFEST_CHANGES = [
    ("# counter 7", "# counter 07", "line 4"),
    ("# counter 7", "# counter -7", "line 4"),
    ("# counter 7", "# counter 9223372036854775808", "line 4"),
    ("# counter 7", "# counter 99999999999999999999", "line 4"),
    ("# minimum-counter 3", "# minimum-counter 8", "line 5"),
    ("# minimum-counter 3\n", "", "line 5"),
    ("# version 2.1.0", "# version 2.1.0.0", "line 3"),
    ("# version 2.1.0", "# version v2.1.0", "line 3"),
    ("# architecture x86_64", "# architecture mips", "line 6"),
    ("# product bitnet", "# product bit net", "line 2"),
    ("# product bitnet", "# product ../etc", "line 2"),
    ("# file 0755", "# file 0777", "line 8"),
    ("# file 0755", "# file 4755", "line 8"),
    ("# file 0755 10244 bitnet-infer", "# file 0755 10244 ../../bin/sh", "line 8"),
    ("# file 0755 10244 bitnet-infer", "# file 0755 10244 MANIFEST", "line 8"),
    ("# file 0755 10244 bitnet-infer", "# file 0755 10244 zzz", "line 9"),
    ("# file 0755 10244 bitnet-infer", "# file 0755 9223372036854775807 bitnet-infer", "line 9"),
    ("  config.yaml", " *config.yaml", "line 16"),
    ("  config.yaml", "  config.yml", "line 16"),
    ("  empty", "  empty\n\n", "line 18"),
    ("# bitnet-manifest v1", "# bitnet-manifest v2", "line 1"),
    ("# bitnet-manifest v1\n", "\n# bitnet-manifest v1\n", "line 1"),
    ("# bitnet-manifest v1\n", "# bitnet-manifest v1\r\n", "line 1"),
]


@pytest.mark.parametrize(("old", "new", "line"), MANIFEST_CHANGES)
def test_manifest_malformed_is_refused_with_its_line(old: str, new: str, line: str) -> None:
    """The person who made it has to find the place."""
    text = make_manifest().emit().decode()
    assert old in text
    with pytest.raises(FormatError) as caught:
        parse_manifest(text.replace(old, new, 1).encode())
    assert caught.value.message == f"manifest is malformed: {line}"


def test_manifest_with_too_many_files_is_refused() -> None:
    """The reader in the gap has room for 64."""
    files = {f"file-{index:02}": (0o644, b"") for index in range(64)}
    lines = make_manifest(files).emit().decode().splitlines()
    lines.insert(71, "# file 0644 0 file-64")
    lines.append(f"{'0' * 96}  file-64")
    with pytest.raises(FormatError) as caught:
        parse_manifest(("\n".join(lines) + "\n").encode())
    assert caught.value.where == ("too many files, or too many bytes in all",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "manifest does not end with a line break"),
        (b"# bitnet-manifest v1", "manifest does not end with a line break"),
        (b"# bitnet-manifest v1\n# product \xc3\xa9\n", "manifest holds a byte that is not ASCII"),
        (b"#" * 65536 + b"\n", "manifest is too long"),
    ],
)
def test_manifest_that_is_no_text_is_refused(data: bytes, message: str) -> None:
    """Size and characters are checked before any line is."""
    with pytest.raises(FormatError) as caught:
        parse_manifest(data)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"statement-bytes ", b"statement-bytes 0", "signature file is malformed: line 1"),
        (b"statement-bytes ", b"statement-bytes 9", "signature file is malformed: line 2"),
        (b"bitnet-signatures v1", b"bitnet-signatures v2", "signature file is malformed: line 1"),
        (b"ed25519 ", b"ed25519  ", "signatures of the signature file is malformed: line 2"),
        (b"==\nml-dsa", b"=\nml-dsa", "signatures of the signature file is malformed: line 2"),
    ],
)
def test_container_malformed_is_refused(old: bytes, new: bytes, message: str) -> None:
    """Lengths are held against what is there before anything is taken."""
    assert old in signed()
    with pytest.raises(FormatError) as caught:
        parse_container(signed().replace(old, new, 1))
    assert caught.value.message == message


def test_container_with_a_key_twice_or_out_of_order_is_refused() -> None:
    """One signature copied is not two people."""
    head, one, two = signed().split(b"signature ")
    for blocks in ((one, one), (two, one), (one, two, two)):
        with pytest.raises(FormatError) as caught:
            parse_container(b"signature ".join((head, *blocks)))
        assert caught.value.where == ("key ids must increase, each once",)


def test_container_with_65_signatures_is_refused() -> None:
    """The reader in the gap has room for 64."""
    block = signed().split(b"signature ")[1][96:]
    blocks = [f"signature {index:096x}".encode() + block for index in range(65)]
    head = signed().split(b"signature ")[0]
    assert len(parse_container(head + b"".join(blocks[:64])).signatures) == 64
    with pytest.raises(FormatError) as caught:
        parse_container(head + b"".join(blocks))
    assert caught.value.where == ("more than 64 signatures",)


def test_container_longer_than_can_be_is_refused() -> None:
    """Nobody reads a gigabyte to find out that it is none."""
    with pytest.raises(FormatError, match="signature file is too long"):
        parse_container(bytes(2 << 20))


@pytest.mark.parametrize(
    ("old", "new", "fact"),
    [
        ("role root 1 ", "role root 0 ", "role root needs 0 of 1 custodians"),
        ("role root 1 ", "role root 2 ", "role root needs 2 of 1 custodians"),
        (
            f"role root 1 {ALICE.public.key_id}",
            f"role root 1 {make_key('carol').public.key_id}",
            "role root names a key that is not given",
        ),
        (f"key {ALICE.public.key_id} alice", f"key {'0' * 96} alice", "key id is not that"),
    ],
)
def test_root_that_says_what_no_root_may_is_refused(old: str, new: str, fact: str) -> None:
    """A root with a hole is worse than none."""
    text = ROOT.emit().decode()
    assert old in text
    with pytest.raises(FormatError) as caught:
        parse_trust_root(text.replace(old, new, 1).encode())
    assert fact in caught.value.where[0]


def test_root_that_gives_a_role_to_a_revoked_key_is_refused() -> None:
    """Revoked means revoked."""
    text = ROOT.emit().decode().replace("revoked ", f"revoked {ALICE.public.key_id}\nrevoked ", 1)
    lines = text.splitlines()
    revoked = sorted(line for line in lines if line.startswith("revoked "))
    rest = [line for line in lines if not line.startswith("revoked ")]
    at = next(index for index, line in enumerate(rest) if line.startswith("key "))
    with pytest.raises(FormatError) as caught:
        parse_trust_root(("\n".join([*rest[:at], *revoked, *rest[at:]]) + "\n").encode())
    assert caught.value.where == ("role root names a revoked key",)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (b"to 2", b"to 7", 4),
        (b"to 2", b"to 8", 4),
        (b"from 7", b"from 07", 3),
        (b"reason broken", b"reason it is broken", 6),
        (b"reason broken", b"reason ", 6),
    ],
)
def test_order_malformed_is_refused_with_its_line(old: bytes, new: bytes, line: int) -> None:
    """An order that goes forward is no order to go back."""
    with pytest.raises(FormatError) as caught:
        parse_rollback_order(ORDER.emit().replace(old, new))
    assert caught.value.message == f"rollback order is malformed: line {line}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"bundle " + b"a" * 96 + b" 5", b"bundle - 5"),
        (b"bundle " + b"a" * 96 + b" 5", b"bundle " + b"a" * 96 + b" 0"),
        (b"bundle " + b"a" * 96 + b" 5", b"bundle  5"),
        (b"bitnet-update v1", b"bitnet-trust-root v1"),
    ],
)
def test_update_statement_malformed_is_refused(old: bytes, new: bytes) -> None:
    """A bundle has a digest and a size, or neither."""
    with pytest.raises(FormatError, match="update statement is malformed"):
        parse_update_statement(UPDATE.emit().replace(old, new))


def test_private_key_of_random_bytes_is_refused_by_name() -> None:
    """Nothing costs 128 MiB before the form has been checked."""
    for data in (b"", b"\n", b"bitnet-private-key v1\n", bytes(5000)):
        with pytest.raises(FormatError):
            open_key(data, "x" * 12)
