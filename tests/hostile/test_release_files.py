"""Manifests, containers, roots, orders and keys that are wrong in one way each, and at random."""

import base64
import random
import re

import pytest

from tests.support import release_probe as probe
from tests.support.publisher import Release, Signer, container, rollback_order, trust_root
from tests.support.status_table import status_rows

ALICE, BOB, CAROL, DAVE = (Signer(name) for name in ("alice", "bob", "carol", "dave"))
RELEASE = Release(
    7, 3, files={"config.yaml": (0o644, b"threads: 1\n"), "bitnet-infer": (0o755, b"program")}
)
MANIFEST = RELEASE.manifest.decode()
ROOT = trust_root(
    4,
    {"root": (2, [ALICE, BOB, CAROL]), "release": (1, [ALICE, BOB]), "site": (1, [CAROL])},
    [DAVE],
).decode()
ORDER = rollback_order("bitnet", 7, 4, "ab" * 48).decode()
KEY = (
    f"bitnet-public-key v1\nname alice\ncustodian alice\ned25519 {ALICE.publics[0].hex()}\n"
    f"ml-dsa-87 {base64.b64encode(ALICE.publics[1]).decode()}\n"
)
SIGNED = container(RELEASE.statement, [ALICE, BOB]).decode()
UPDATE = RELEASE.statement.decode()
GOOD = {
    "manifest": MANIFEST,
    "trust root": ROOT,
    "order": ORDER,
    "key": KEY,
    "container": SIGNED,
    "update": UPDATE,
}
BIG = str(2**63)
MANY_NAMES = [f"f{index:03d}" for index in range(65)]
MANY_FILES = Release(7, files=dict.fromkeys(MANY_NAMES, (0o644, b""))).manifest.decode()
ID = re.escape(min(ALICE.key_id, BOB.key_id))
SIGNATURES = SIGNED[SIGNED.index("signature ") :]
FIRST = SIGNATURES[: SIGNATURES.index("signature ", 1)]


def swap(text: str, pattern: str, replacement: str) -> str:
    """Replaces the first match, which there must be."""
    changed, count = re.subn(pattern, lambda _: replacement, text, count=1, flags=re.DOTALL)
    assert count == 1, pattern
    return changed


def shared_half(ed25519: Signer, mldsa87: Signer) -> str:
    """A root in which eve's key has halves of others."""

    class Shared(Signer):
        @property
        def publics(self) -> tuple[bytes, bytes]:  # type: ignore[override]
            return ed25519.publics[0], mldsa87.publics[1]

        @property
        def key_id(self) -> str:  # type: ignore[override]
            return Signer.key_id.func(self)

    return trust_root(1, {"root": (1, [ALICE]), "release": (1, [Shared("eve")])}).decode()


# (kind, change of the good text, status, line)
CASES = [
    ("manifest", lambda t: swap(t, "manifest v1", "manifest v2"), "kReleaseSyntax", 1),
    ("manifest", lambda t: swap(t, "\n", "\r\n"), "kReleaseSyntax", 1),
    ("manifest", lambda t: swap(t, "# product", "# channel"), "kReleaseSyntax", 2),
    ("manifest", lambda t: swap(t, "product bitnet", "product  bitnet"), "kReleaseName", 2),
    ("manifest", lambda t: swap(t, "product bitnet", "product .bitnet"), "kReleaseName", 2),
    ("manifest", lambda t: swap(t, "product bitnet", "product -bitnet"), "kReleaseName", 2),
    ("manifest", lambda t: swap(t, "product bitnet", "product " + "a" * 65), "kReleaseName", 2),
    ("manifest", lambda t: swap(t, "product bitnet", "product bit\x1bnet"), "kReleaseSyntax", 2),
    ("manifest", lambda t: swap(t, "1.0.0", "1.0"), "kReleaseSyntax", 3),
    ("manifest", lambda t: swap(t, "1.0.0", "1.00.0"), "kReleaseNumber", 3),
    ("manifest", lambda t: swap(t, "counter 7", "counter 07"), "kReleaseNumber", 4),
    ("manifest", lambda t: swap(t, "counter 7", "counter -7"), "kReleaseNumber", 4),
    ("manifest", lambda t: swap(t, "counter 7", "counter "), "kReleaseNumber", 4),
    ("manifest", lambda t: swap(t, "counter 7", f"counter {BIG}"), "kReleaseNumber", 4),
    ("manifest", lambda t: swap(t, "counter 7", "counter " + "9" * 400), "kReleaseNumber", 4),
    ("manifest", lambda t: swap(t, "minimum-counter 3", "minimum-counter 8"), "kReleaseRange", 5),
    ("manifest", lambda t: swap(t, "x86_64", "x86/64"), "kReleaseSyntax", 6),
    ("manifest", lambda t: swap(t, "0755 7 ", "4755 7 "), "kReleaseMode", 8),
    ("manifest", lambda t: swap(t, "0755 7 ", "755 7 "), "kReleaseMode", 8),
    ("manifest", lambda t: swap(t, "bitnet-infer", "../bitnet-infer"), "kReleaseName", 8),
    ("manifest", lambda t: swap(t, "bitnet-infer", "bin/bitnet-infer"), "kReleaseSyntax", 8),
    ("manifest", lambda t: swap(t, "bitnet-infer", "MANIFEST"), "kReleaseName", 8),
    ("manifest", lambda t: swap(t, "config.yaml", "update.sig"), "kReleaseName", 9),
    ("manifest", lambda t: swap(t, "config.yaml", "bitnet-infer"), "kReleaseOrder", 9),
    ("manifest", lambda t: swap(t, "config.yaml", "aconfig.yaml"), "kReleaseOrder", 9),
    ("manifest", lambda t: swap(t, "0755 7 ", f"0755 {2**63 - 2} "), "kReleaseRange", 9),
    ("manifest", lambda t: MANY_FILES, "kReleaseCount", 72),
    ("manifest", lambda t: swap(t, "# file.*", ""), "kReleaseSyntax", 8),
    ("manifest", lambda t: swap(t, "  bitnet-infer", "  config.yaml"), "kReleaseOrder", 10),
    ("manifest", lambda t: swap(t, "  bitnet-infer", " *bitnet-infer"), "kReleaseSyntax", 10),
    ("manifest", lambda t: swap(t, "[0-9a-f]{96}", "A" * 96), "kReleaseHex", 10),
    ("manifest", lambda t: swap(t, "[0-9a-f]{96}", "a" * 95), "kReleaseHex", 10),
    ("manifest", lambda t: swap(t, "[0-9a-f]{96}", "a" * 97), "kReleaseSyntax", 10),
    ("manifest", lambda t: t + "\n", "kReleaseTrailing", 12),
    ("manifest", lambda t: t + t, "kReleaseTrailing", 12),
    ("manifest", lambda t: t[:-1], "kReleaseTruncated", 11),
    ("manifest", lambda t: t[:20], "kReleaseTruncated", 1),
    ("manifest", lambda t: "", "kReleaseTruncated", 1),
    ("update", lambda t: swap(t, "bundle [0-9a-f]+ [0-9]+", "bundle -"), "kReleaseHex", 2),
    ("update", lambda t: swap(t, "(?<=[0-9a-f]{96}) [0-9]+", " 0"), "kReleaseRange", 2),
    ("update", lambda t: swap(t, "bitnet-update", "bitnet-downdate"), "kStatementKind", 0),
    ("update", lambda t: ROOT, "kStatementKind", 0),
    ("update", lambda t: ORDER, "kStatementKind", 0),
    ("trust root", lambda t: UPDATE, "kStatementKind", 0),
    ("trust root", lambda t: swap(t, "version 4", "version x"), "kReleaseNumber", 2),
    ("trust root", lambda t: swap(t, "role root 2", "role root 0"), "kRootThreshold", 3),
    ("trust root", lambda t: swap(t, "role root 2", "role root 4"), "kRootThreshold", 3),
    ("trust root", lambda t: swap(t, "role root", "role site"), "kReleaseSyntax", 3),
    ("trust root", lambda t: swap(t, "role release[^\n]*\n", ""), "kReleaseSyntax", 4),
    ("trust root", lambda t: swap(t, f" {ID}", f" {ID} {ID}"), "kReleaseOrder", 3),
    ("trust root", lambda t: swap(t, "role root 2", f"role root 2 {'0' * 96}"),
     "kRootKeyMissing", 3),
    ("trust root", lambda t: swap(t, "(?=revoked)", f"revoked {'0' * 96}\nrevoked {'0' * 96}\n"),
     "kReleaseOrder", 7),
    ("trust root", lambda t: swap(t, DAVE.key_id, CAROL.key_id), "kRootKeyRevoked", 3),
    ("trust root", lambda t: swap(t, "\nkey [^\n]*", ""), "kRootKeyMissing", 3),
    ("trust root", lambda t: t + t[t.rindex("key ") :], "kReleaseOrder", 10),
    ("trust root", lambda t: swap(t, "(key [0-9a-f]+ [a-z]+ [a-z]+) [0-9a-f]{64}",
                                  f"key {ID} x x {'0' * 64}"), "kRootKeyId", 7),
    ("trust root", lambda t: shared_half(ALICE, BOB), "kRootKeyShared", 6),
    ("trust root", lambda t: shared_half(BOB, ALICE), "kRootKeyShared", 6),
    ("trust root", lambda t: t + "signature", "kReleaseSyntax", 10),
    ("trust root", lambda t: t[:-3], "kReleaseBase64", 9),
    ("order", lambda t: swap(t, "to 4", "to 7"), "kReleaseRange", 4),
    ("order", lambda t: swap(t, "to 4", "to 8"), "kReleaseRange", 4),
    ("order", lambda t: UPDATE, "kStatementKind", 0),
    ("order", lambda t: t + "x", "kReleaseTrailing", 7),
    ("order", lambda t: swap(t, "reason test", "reason a b"), "kReleaseSyntax", 6),
    ("key", lambda t: swap(t, "ed25519 ", "ed25519  "), "kReleaseHex", 4),
    ("key", lambda t: t[:-2] + "\n", "kReleaseBase64", 5),
    ("key", lambda t: swap(t, "ml-dsa-87 .", "ml-dsa-87 -"), "kReleaseBase64", 5),
    ("key", lambda t: swap(t, "custodian alice", "custodian "), "kReleaseName", 3),
    ("container", lambda t: swap(t, "statement-bytes [0-9]+", f"statement-bytes {2**20 + 1}"),
     "kReleaseRange", 2),
    ("container", lambda t: swap(t, "statement-bytes [0-9]+", f"statement-bytes {2**20}"),
     "kReleaseTruncated", 3),
    ("container", lambda t: swap(t, "statement-bytes [0-9]+", "statement-bytes 0"),
     "kReleaseSyntax", 3),
    ("container", lambda t: swap(t, "statement-bytes [0-9]+", "statement-bytes 10"),
     "kReleaseSyntax", 3),
    ("container", lambda t: t + FIRST, "kReleaseOrder", 22),
    ("container", lambda t: t[: t.index("signature ")] + FIRST + FIRST, "kReleaseOrder", 19),
    ("container", lambda t: t[: t.index("signature ")]
     + "".join(FIRST.replace(FIRST[10:106], f"{index:096x}") for index in range(65)),
     "kReleaseCount", 208),
    ("container", lambda t: swap(t, "\ned25519 .{88}", f"\ned25519 {'A' * 85}B=="),
     "kReleaseBase64", 17),
    ("container", lambda t: swap(t, "\ned25519 .{88}", f"\ned25519 {'A' * 87}="),
     "kReleaseBase64", 17),
    ("container", lambda t: swap(t, "\ned25519 [^\n]*", ""), "kReleaseSyntax", 17),
    ("container", lambda t: t + " ", "kReleaseSyntax", 22),
    ("container", lambda t: t[:-1], "kReleaseTruncated", 21),
]  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_good_file_any_kind_is_read(kind: str) -> None:
    """If this fails, the refusals below prove nothing."""
    assert probe.parse(kind, GOOD[kind].encode()).status == "kOk"


@pytest.mark.parametrize(("kind", "change", "status", "line"), CASES)
def test_file_wrong_in_one_way_is_refused_for_that(kind, change, status, line) -> None:
    """Another reason, or another line, sends the reader of the message to the wrong place."""
    told = probe.parse(kind, change(GOOD[kind]).encode("latin1"))
    assert (told.status, told.where) == (status, line)


def test_every_status_of_files_has_its_case() -> None:
    """A reason that no input provokes is either dead or untested."""
    wanted = {row.name for row in status_rows().values() if 80 <= row.number < 100}
    elsewhere = {"kReleaseTooLarge", "kRootVersion", "kRootUnrevoked"}  # need files, or two roots
    assert wanted - elsewhere == {status for _, _, status, _ in CASES}


@pytest.mark.parametrize("kind", GOOD)
def test_file_any_truncation_is_refused(kind: str) -> None:
    """If this fails, half a file passes for a whole one."""
    data = GOOD[kind].encode()
    ends = range(len(data)) if len(data) < 3000 else random.Random(3).sample(range(len(data)), 3000)
    # A container without its last signatures is a container; a root without its last key is not.
    whole = {len(data)}
    if kind == "container":
        whole |= {match.start() for match in re.finditer(b"^signature ", data, re.MULTILINE)}
    for end in ends:
        assert (probe.parse(kind, data[:end]).status == "kOk") == (end in whole), end


@pytest.mark.parametrize("kind", GOOD)
def test_file_any_changed_byte_is_another_value_or_refused(kind: str) -> None:
    """One form for each value: what is read after a change must differ in meaning, not in form.

    So a change of white space, case, padding or zeros is never accepted.
    """
    rng = random.Random(kind)
    data = GOOD[kind].encode()
    # The statement inside a container is any text: here its signatures are changed.
    begin = data.index(b"signature ") if kind == "container" else 0
    for _ in range(4000):
        changed = bytearray(data)
        at = rng.randrange(begin, len(data))
        form = rng.choice(b" \n\r\t\0=+0A\xff")
        if rng.random() < 0.5:
            changed.insert(at, form)
        else:
            changed[at] = form
        if changed == data:
            continue
        if probe.parse(kind, bytes(changed)).status == "kOk":
            # Accepted: then it is a letter of a name, of base64, or a digit, not white space.
            assert form in b"+0A\n=" and at > 0
            assert form not in b"\n=" or bytes(changed).count(b"\n") == data.count(b"\n"), at
