"""Attacks on signatures and roots, named after the cases of tuf-conformance that they mirror."""

import random
from itertools import combinations

import pytest

from tests.support import release_probe as probe
from tests.support.publisher import Release, Signer, container, rollback_order, trust_root

ALICE, BOB, CAROL, DAVE, EVE, SITE = (
    Signer(name) for name in ("alice", "bob", "carol", "dave", "eve", "site")
)
RELEASE = Release(7, files={"bitnet-infer": (0o755, b"program")})
ROLES = {"root": (2, [ALICE, BOB, CAROL]), "release": (2, [ALICE, BOB, CAROL])}
ROOT = trust_root(1, ROLES)
SITE_ROOT = trust_root(1, {**ROLES, "site": (1, [SITE])})


def signed(*signers: Signer) -> bytes:
    return container(RELEASE.statement, signers)


def forged(good: bytes, signer: Signer, half: str) -> bytes:
    """Replaces one half of a signer's signature by that over another statement."""
    lines = good.decode().split("\n")
    wrong = signer.sign(b"something else\n").split("\n")
    at = lines.index(f"signature {signer.key_id}") + (1 if half == "ed25519" else 2)
    assert lines[at] != wrong[1 if half == "ed25519" else 2]
    lines[at] = wrong[1 if half == "ed25519" else 2]
    return "\n".join(lines).encode()


@pytest.mark.conformance("test_basic_refresh_trusted_data", "none: enough people have signed")
def test_release_enough_signers_is_trusted() -> None:
    """If this fails, nothing can be installed, and the refusals below prove nothing."""
    for signers in combinations((ALICE, BOB, CAROL), 2):
        told = probe.release(ROOT, signed(*signers))
        assert told.status == "kOk"
        assert told.count("release")["custodians"] == 2


@pytest.mark.conformance("test_unsigned_metadata", "no signature at all")
def test_release_without_signatures_is_refused() -> None:
    """An unsigned release would be installed."""
    told = probe.release(ROOT, signed())
    assert (told.status, told.value, told.limit) == ("kSignaturesTooFew", 0, 2)


@pytest.mark.conformance("test_snapshot_does_not_meet_threshold", "too few keys")
def test_release_too_few_signers_is_refused() -> None:
    """One person alone would release."""
    told = probe.release(ROOT, signed(ALICE))
    assert (told.status, told.value, told.limit) == ("kSignaturesTooFew", 1, 2)


@pytest.mark.conformance("test_snapshot_has_too_few_keys", "wrong key")
def test_release_only_unknown_keys_is_refused() -> None:
    """Anybody's key would do."""
    told = probe.release(ROOT, signed(DAVE, EVE))
    assert told.status == "kSignersUnknown"
    assert told.count("release")["unknown"] == 2


@pytest.mark.conformance("test_duplicate_sig_keyids", "one key counted twice")
def test_release_one_signature_twice_is_refused() -> None:
    """One key would make a threshold of two."""
    head, _, signature = signed(ALICE).partition(b"signature ")
    twice = head + 2 * (b"signature " + signature)
    assert probe.release(ROOT, twice).status == "kReleaseOrder"


@pytest.mark.conformance("test_duplicate_keys", "one key twice in a role")
def test_root_key_twice_in_role_is_refused() -> None:
    """A threshold of two would be reached by one key under two entries."""
    assert probe.parse("trust root", trust_root(1, {
        "root": (1, [ALICE]), "release": (2, [ALICE, ALICE]),
    })).status == "kReleaseOrder"  # fmt: skip


@pytest.mark.conformance("(ours) custodian", "one person with two keys counted twice")
def test_release_two_keys_of_one_custodian_is_refused() -> None:
    """One person would release alone by making two keys."""
    second = Signer("second", custodian="alice")
    root = trust_root(1, {"root": (1, [ALICE]), "release": (2, [ALICE, second, BOB])})
    told = probe.release(root, signed(ALICE, second))
    assert (told.status, told.value, told.limit) == ("kCustodianTwice", 1, 2)
    assert probe.release(root, signed(ALICE, second, BOB)).status == "kOk"


@pytest.mark.conformance("(ours) custodian", "a threshold that one person alone reaches")
def test_root_threshold_above_custodians_is_refused() -> None:
    """A root would ask for more people than there are, or count keys for people."""
    second = Signer("second", custodian="alice")
    root = trust_root(1, {"root": (1, [ALICE]), "release": (2, [ALICE, second])})
    told = probe.parse("trust root", root)
    assert (told.status, told.value, told.limit) == ("kRootThreshold", 2, 1)


@pytest.mark.conformance("(ours) revocation", "revoked key")
def test_release_by_revoked_key_is_refused() -> None:
    """A stolen key would stay good for ever."""
    root = trust_root(2, {"root": (1, [ALICE]), "release": (2, [ALICE, BOB])}, [CAROL])
    told = probe.release(root, signed(ALICE, CAROL))
    assert told.status == "kKeyRevoked"
    assert told.count("release") == {
        "custodians": 1, "threshold": 2, "invalid": 0, "revoked": 1, "other_role": 0, "unknown": 0,
    }  # fmt: skip
    assert probe.release(root, signed(ALICE, BOB, CAROL)).status == "kOk"


@pytest.mark.conformance("test_keytype_and_scheme", "other content signed")
@pytest.mark.parametrize("half", ["ed25519", "ml-dsa-87"])
def test_release_one_half_over_other_content_is_refused(half: str) -> None:
    """One broken algorithm would be enough to forge a release."""
    told = probe.release(ROOT, forged(signed(ALICE, BOB), BOB, half))
    assert told.status == "kSignatureInvalid"
    assert told.count("release")["invalid"] == 1


@pytest.mark.conformance("test_invalid_sig_in_valid_metadata", "a wrong signature among enough")
def test_release_invalid_signature_beside_enough_is_trusted() -> None:
    """One bad signature appended by anybody would stop every update."""
    told = probe.release(ROOT, forged(signed(ALICE, BOB, CAROL), CAROL, "ed25519"))
    assert told.status == "kOk"
    assert told.count("release")["invalid"] == 1


@pytest.mark.conformance("test_metadata_bytes_match", "signature over other content")
def test_release_any_changed_byte_of_statement_is_refused() -> None:
    """A byte of a signed statement could be changed."""
    good = signed(ALICE, BOB)
    begin = good.index(b"bitnet-update v1")
    rng = random.Random(9)
    for _ in range(200):
        changed = bytearray(good)
        changed[rng.randrange(begin, begin + len(RELEASE.statement))] ^= 1 << rng.randrange(8)
        assert probe.release(ROOT, bytes(changed)).status != "kOk"


@pytest.mark.conformance("(ours) mix and match", "signatures of one release on another")
def test_release_with_signatures_of_another_is_refused() -> None:
    """An old release's signatures would carry a new one, or the other way round."""
    other = Release(8, files={"bitnet-infer": (0o755, b"program")})
    _, _, signatures = signed(ALICE, BOB).partition(b"signature ")
    head, _, _ = container(other.statement, [ALICE]).partition(b"signature ")
    assert probe.release(ROOT, head + b"signature " + signatures).status == "kSignatureInvalid"


@pytest.mark.conformance("test_incorrect_metadata_type", "a signed statement of another kind")
def test_release_statement_of_another_kind_is_refused() -> None:
    """A signed root or order would pass for a release."""
    order = rollback_order("bitnet", 7, 3, "ab" * 48)
    for statement in (ROOT, order):
        assert probe.release(ROOT, container(statement, [ALICE, BOB])).status == "kStatementKind"
    assert probe.order(ROOT, signed(ALICE, BOB)).status == "kStatementKind"
    assert probe.root(signed(ALICE, BOB)).status == "kStatementKind"


@pytest.mark.conformance("(ours) second role", "site has not approved")
def test_release_without_site_is_refused() -> None:
    """Who makes releases would also decide that they run here."""
    told = probe.release(SITE_ROOT, signed(ALICE, BOB))
    assert told.status == "kSignersUnknown"
    assert told.count("release")["custodians"] == 2
    assert told.count("site") == {
        "custodians": 0, "threshold": 1, "invalid": 0, "revoked": 0, "other_role": 2, "unknown": 0,
    }  # fmt: skip
    assert probe.release(SITE_ROOT, signed(SITE)).status == "kSignersUnknown"
    assert probe.release(SITE_ROOT, signed(ALICE, BOB, SITE)).status == "kOk"


@pytest.mark.conformance("(ours) rollback order", "an order by those who only make releases")
def test_order_without_site_is_refused() -> None:
    """Where a site decides, a release's signers would take it back to an old release."""
    order = rollback_order("bitnet", 7, 3, "ab" * 48)
    assert probe.order(SITE_ROOT, container(order, [ALICE, BOB])).status == "kSignersUnknown"
    assert probe.order(SITE_ROOT, container(order, [SITE])).status == "kOk"
    assert probe.order(ROOT, container(order, [ALICE])).status == "kSignaturesTooFew"
    assert probe.order(ROOT, container(order, [ALICE, BOB])).status == "kOk"


NEXT_ROLES = {"root": (2, [BOB, CAROL, DAVE]), "release": (1, [DAVE])}


def root_file(version: int, roles: dict, *signers: Signer, revoked: tuple = ()) -> bytes:
    return container(trust_root(version, roles, revoked), signers)


INSTALLED = root_file(4, ROLES, ALICE, BOB)


@pytest.mark.conformance("test_root_rotation", "none: a root signed by old and new")
def test_root_signed_by_old_and_new_follows() -> None:
    """If this fails, keys can never be replaced."""
    assert probe.successor(INSTALLED, root_file(5, NEXT_ROLES, BOB, CAROL)).status == "kOk"
    both = root_file(5, NEXT_ROLES, ALICE, BOB, DAVE)
    assert probe.successor(INSTALLED, both).status == "kOk"


@pytest.mark.conformance("test_url_and_metadata_version_mismatch", "skipped root version")
@pytest.mark.parametrize("version", [0, 1, 3, 4, 6, 7, 2**63 - 1])
def test_root_of_another_version_is_refused(version: int) -> None:
    """A revocation in between would be skipped, or an old root come back."""
    told = probe.successor(INSTALLED, root_file(version, NEXT_ROLES, BOB, CAROL))
    assert (told.status, told.value, told.limit) == ("kRootVersion", version, 5)


@pytest.mark.conformance("test_root_rotation", "root with too few old signatures")
def test_root_with_too_few_old_signatures_is_refused() -> None:
    """The new keys would appoint themselves."""
    told = probe.successor(INSTALLED, root_file(5, NEXT_ROLES, BOB, DAVE))
    assert (told.status, told.value, told.limit) == ("kSignaturesTooFew", 1, 2)


@pytest.mark.conformance("test_root_rotation", "root with too few new signatures")
def test_root_with_too_few_new_signatures_is_refused() -> None:
    """A root that nobody holds the keys of would lock everybody out."""
    told = probe.successor(INSTALLED, root_file(5, NEXT_ROLES, ALICE, BOB))
    assert (told.status, told.value, told.limit) == ("kSignaturesTooFew", 1, 2)


@pytest.mark.conformance("(ours) revocation", "a revoked key comes back")
def test_root_that_takes_back_a_revocation_is_refused() -> None:
    """A stolen key would be made good again, quietly."""
    installed = root_file(4, ROLES, ALICE, BOB, revoked=(EVE,))
    following = root_file(5, NEXT_ROLES, BOB, CAROL)
    assert probe.successor(installed, following).status == "kRootUnrevoked"
    kept = root_file(5, NEXT_ROLES, BOB, CAROL, revoked=(EVE, ALICE))
    assert probe.successor(installed, kept).status == "kOk"


@pytest.mark.conformance("test_invalid_initial_root", "a root that its own keys have not signed")
def test_root_without_its_own_threshold_is_refused() -> None:
    """A root could be made up around somebody else's keys."""
    assert probe.root(root_file(1, ROLES)).status == "kSignaturesTooFew"
    assert probe.root(root_file(1, ROLES, ALICE)).status == "kSignaturesTooFew"
    assert probe.root(root_file(1, ROLES, DAVE, EVE)).status == "kSignersUnknown"
    assert probe.root(root_file(1, ROLES, ALICE, CAROL)).status == "kOk"


@pytest.mark.conformance("(ours) counting", "any set of signers, keys, people and revocations")
def test_release_random_sets_are_decided_as_counted_here() -> None:
    """Some mixture of keys, people, roles, forgeries and revocations is counted wrongly."""
    rng = random.Random(64)
    people = ("ann", "ben", "cleo")
    signers = [Signer(f"key{index}", custodian=people[index % 3]) for index in range(7)]
    pieces = {signer.key_id: signer.sign(RELEASE.statement) for signer in signers}
    bad = {signer.key_id: signer.sign(b"x\n") for signer in signers}
    head, _, _ = container(RELEASE.statement, []).partition(b"signature ")
    for _ in range(300):
        revoked = rng.sample(signers, rng.randrange(3))
        held = [each for each in signers if each not in revoked]
        role = rng.sample(held, rng.randrange(1, len(held)))
        needed = rng.randrange(1, len({each.custodian for each in role}) + 1)
        root = trust_root(1, {"root": (1, held[:1]), "release": (needed, role)}, revoked)
        used = rng.sample(signers, rng.randrange(len(signers) + 1))
        wrong = set(rng.sample(used, rng.randrange(len(used) + 1) // 2))
        lines = sorted((bad if each in wrong else pieces)[each.key_id] for each in used)
        told = probe.release(root, head + "".join(lines).encode())
        counted = {each.custodian for each in used if each in role and each not in wrong}
        assert (told.status == "kOk") == (len(counted) >= needed)
        assert told.count("release")["custodians"] == len(counted)
        assert told.count("release")["revoked"] == len(set(used) & set(revoked))
        assert told.count("release")["invalid"] == len(wrong & set(role))
