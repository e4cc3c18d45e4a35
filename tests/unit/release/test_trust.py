"""The trust root: who may sign for what, and how one root follows another."""

import dataclasses
import hashlib

import pytest

from bitnet.errors import (
    FormatError,
    IntegrityError,
    RollbackError,
    SignatureError,
    ToolkitError,
    UsageError,
)
from bitnet.release.container import Container
from bitnet.release.keys import PrivateKey
from bitnet.release.root_edit import add_key, find_key, remove_key, revoke_key, set_threshold
from bitnet.release.statements import RollbackOrder, UpdateStatement
from bitnet.release.trust import (
    TrustRoot,
    accept_first_root,
    accept_order,
    accept_successor,
    accept_update,
    check_threshold,
    parse_trust_root,
    root_of_one_key,
)
from tests.support.release import make_key, make_manifest, make_root, sign_all

ALICE, BOB, CAROL, DAVE = (make_key(name) for name in ("alice", "bob", "carol", "dave"))
ANN_1, ANN_2 = make_key("ann-1", "ann"), make_key("ann-2", "ann")
SITE = make_key("site")
ROOT = make_root(1, root=(2, (ALICE, BOB, CAROL)), release=(2, (ALICE, BOB, ANN_1, ANN_2)))
STATEMENT = UpdateStatement(make_manifest()).emit()


def corrupt(container: Container, key: PrivateKey) -> Container:
    """Returns the container with one bit of a key's ML-DSA signature changed."""
    key_id = key.public.key_id
    changed = tuple(
        dataclasses.replace(each, ml_dsa_87=bytes([each.ml_dsa_87[0] ^ 1]) + each.ml_dsa_87[1:])
        if each.key_id == key_id
        else each
        for each in container.signatures
    )
    return dataclasses.replace(container, signatures=changed)


@pytest.mark.parametrize(
    ("signers", "broken", "accepted"),
    [
        ((ALICE, BOB), (), True),
        ((ALICE, ANN_1), (), True),
        ((ALICE, ANN_1, ANN_2), (), True),
        ((ALICE,), (), False),
        ((), (), False),
        ((ANN_1, ANN_2), (), False),  # one person twice
        ((ALICE, DAVE), (), False),  # a key of no role
        ((ALICE, CAROL), (), False),  # a key of another role
        ((ALICE, BOB), (BOB,), False),  # one half of one signature is wrong
        ((ALICE, BOB, ANN_1), (BOB,), True),  # passed over: enough are left
    ],
)
def test_update_needs_enough_custodians(
    signers: tuple[PrivateKey, ...], broken: tuple[PrivateKey, ...], accepted: bool
) -> None:
    """Fewer people than the threshold must never be enough, whoever else signs beside them."""
    container = sign_all(STATEMENT, *signers)
    for key in broken:
        container = corrupt(container, key)
    if accepted:
        statement, by_role = accept_update(ROOT, container)
        assert statement.emit() == STATEMENT
        valid = {key.public for key in signers if key not in broken}
        assert set(by_role["release"]) == valid & set(ROOT.members("release"))
        return
    with pytest.raises(SignatureError, match="too few valid signatures"):
        accept_update(ROOT, container)


def test_update_signed_over_other_bytes_is_refused() -> None:
    """Signatures belong to the statement that they were made for."""
    signed = sign_all(STATEMENT, ALICE, BOB)
    other = UpdateStatement(make_manifest(counter=8)).emit()
    with pytest.raises(SignatureError) as caught:
        accept_update(ROOT, dataclasses.replace(signed, statement=other))
    assert "invalid   alice (alice-person)" in caught.value.where


def test_update_where_a_site_exists_needs_the_site_too() -> None:
    """The site says here and now; the publisher alone must not be enough."""
    root = make_root(root=(1, (ALICE,)), release=(1, (ALICE,)), site=(1, (SITE,)))
    with pytest.raises(SignatureError) as caught:
        accept_update(root, sign_all(STATEMENT, ALICE))
    assert caught.value.where[0] == "role      site, 0 of 1 custodians have signed"
    _, by_role = accept_update(root, sign_all(STATEMENT, ALICE, SITE))
    assert by_role == {"release": (ALICE.public,), "site": (SITE.public,)}


def test_single_key_is_a_root_of_its_own() -> None:
    """`--pubkey` is the 1-of-1 case of the same rules."""
    root = root_of_one_key(ALICE.public)
    accept_update(root, sign_all(STATEMENT, ALICE, BOB))
    with pytest.raises(SignatureError):
        accept_update(root, sign_all(STATEMENT, BOB))


def successor(**changes: object) -> TrustRoot:
    """Returns a root of version 2 in which Carol gave way to Dave."""
    return dataclasses.replace(
        make_root(2, root=(2, (ALICE, BOB, DAVE)), release=(1, (DAVE,)), revoked=(CAROL,)),
        **changes,
    )


@pytest.mark.parametrize(
    ("signers", "changes", "error"),
    [
        ((ALICE, BOB), {}, None),
        ((ALICE, BOB, CAROL, DAVE), {}, None),
        ((ALICE, CAROL, DAVE), {}, None),  # 2 of the old, 2 of the new
        ((ALICE, CAROL), {}, SignatureError),  # only the old ones agree
        ((ALICE, DAVE), {}, SignatureError),  # only the new ones agree
        ((ALICE,), {}, SignatureError),
        ((ALICE, BOB), {"version": 3}, RollbackError),  # skipped
        ((ALICE, BOB), {"version": 1}, RollbackError),  # the same again
        ((ALICE, BOB), {"version": 0}, RollbackError),  # older
    ],
)
def test_successor_needs_both_thresholds_and_the_next_version(
    signers: tuple[PrivateKey, ...], changes: dict[str, object], error: type[ToolkitError] | None
) -> None:
    """Whoever has only the old keys, or only new ones, must not take a machine over."""
    root = successor(**changes)
    container = sign_all(root.emit(), *signers)
    if error is None:
        assert accept_successor(ROOT, container) == root
        return
    with pytest.raises(error):
        accept_successor(ROOT, container)


def test_successor_that_takes_a_revocation_back_is_refused() -> None:
    """A stolen key that comes back would make the revocation worth nothing."""
    installed = successor()
    root = make_root(3, root=(2, (ALICE, BOB, CAROL)), release=(1, (DAVE,)))
    with pytest.raises(SignatureError, match="takes a revocation back"):
        accept_successor(installed, sign_all(root.emit(), ALICE, BOB))


def test_first_root_is_trusted_by_its_digest_alone() -> None:
    """A first root with another digest than the paper's is somebody else's."""
    container = sign_all(ROOT.emit(), ALICE, CAROL)
    digest = hashlib.sha384(ROOT.emit()).hexdigest()
    assert accept_first_root(container, digest) == ROOT
    with pytest.raises(IntegrityError):
        accept_first_root(container, "0" * 96)
    with pytest.raises(SignatureError):
        accept_first_root(sign_all(ROOT.emit(), ALICE), digest)


def test_order_needs_the_site_where_there_is_one() -> None:
    """Going back below the floor is the site's decision."""
    statement = RollbackOrder("bitnet", 7, 2, "a" * 96, "broken").emit()
    with_site = make_root(root=(1, (ALICE,)), release=(1, (ALICE,)), site=(1, (SITE,)))
    assert accept_order(with_site, sign_all(statement, SITE)).to_counter == 2
    with pytest.raises(SignatureError):
        accept_order(with_site, sign_all(statement, ALICE))
    assert accept_order(ROOT, sign_all(statement, ALICE, BOB)).reason == "broken"
    with pytest.raises(SignatureError):
        accept_order(ROOT, sign_all(statement, ALICE))


def test_statement_of_another_kind_is_refused() -> None:
    """The first line is the domain: a signed root must never pass for an update."""
    with pytest.raises(FormatError):
        accept_update(ROOT, sign_all(ROOT.emit(), ALICE, BOB))
    with pytest.raises(FormatError):
        accept_order(ROOT, sign_all(STATEMENT, ALICE, BOB))
    with pytest.raises(FormatError):
        accept_successor(ROOT, sign_all(STATEMENT, ALICE, BOB))


def test_key_line_whose_id_is_not_the_key_s_is_refused() -> None:
    """Else one key could stand under the id of another."""
    text = ROOT.emit().decode()
    one, other = ALICE.public, BOB.public
    lines = [
        line.replace(f"key {one.key_id} {one.name}", f"key {one.key_id} {other.name}").replace(
            one.ed25519.hex(), other.ed25519.hex()
        )
        for line in text.splitlines()
    ]
    with pytest.raises(FormatError) as caught:
        parse_trust_root(("\n".join(lines) + "\n").encode())
    assert caught.value.where == ("key id is not that of the key",)


def test_edits_give_roots_that_follow() -> None:
    """Every change that the commands offer must lead to a root that machines accept."""
    root = dataclasses.replace(ROOT, version=2)
    edited = add_key(root, "release", DAVE.public, 3)
    edited = revoke_key(edited, find_key(edited, CAROL.public.key_id[:12]))
    edited = set_threshold(edited, "root", 1)
    edited = remove_key(edited, "release", find_key(edited, "ann-2"))
    edited = add_key(edited, "site", SITE.public)
    assert accept_successor(ROOT, sign_all(edited.emit(), ALICE, BOB)) == edited
    assert CAROL.public.key_id in edited.revoked
    assert {key.name for key in edited.keys} == {"alice", "bob", "ann-1", "dave", "site"}
    assert "site" not in remove_key(edited, "site", SITE.public).roles
    assert "site" not in revoke_key(edited, SITE.public).roles


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda root: add_key(root, "boss", DAVE.public), "role does not exist: `boss`"),
        (lambda root: add_key(root, "root", ALICE.public), "key is in the role already: `alice`"),
        (lambda root: remove_key(root, "root", DAVE.public), "key is not in the role: `dave`"),
        (lambda root: set_threshold(root, "site", 1), "role has no keys: `site`"),
        (lambda root: set_threshold(root, "root", 4), "trust root is not usable"),
        (lambda root: set_threshold(root, "root", 0), "trust root is not usable"),
        (
            lambda root: find_key(root, "nobody"),
            "key is not in the root, or not the only one: `nobody`",
        ),
        (
            lambda root: add_key(revoke_key(root, CAROL.public), "release", CAROL.public),
            "key is revoked: `carol`",
        ),
        (
            lambda root: revoke_key(revoke_key(root, CAROL.public), BOB.public),
            "trust root is not usable",
        ),
    ],
)
def test_edit_that_cannot_be_is_refused(edit: object, message: str) -> None:
    """A root without a way to sign its successor locks everybody out for good."""
    with pytest.raises(UsageError) as caught:
        edit(ROOT)  # type: ignore[operator]
    assert caught.value.message == message


def test_threshold_error_names_who_counts_and_who_is_missing() -> None:
    """The person at the machine has to know whom to call."""
    container = corrupt(sign_all(STATEMENT, ALICE, BOB), BOB)
    with pytest.raises(SignatureError) as caught:
        check_threshold(ROOT, "release", container)
    assert caught.value.where == (
        "role      release, 1 of 2 custodians have signed",
        "valid     alice (alice-person)",
        "invalid   bob (bob-person)",
        "missing   ann",
        "missing   bob-person",
    )
