"""Text formats of a release: what is written is read back, and says what the page says."""

import hashlib
import string

import pytest
from dilithium_py.ml_dsa import ML_DSA_87
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet.errors import SignatureError, UsageError
from bitnet.release.archive import BundleDigest
from bitnet.release.container import Container, parse_container
from bitnet.release.keys import PublicKey, Signature, parse_public_key
from bitnet.release.manifest import FileEntry, Manifest, parse_manifest
from bitnet.release.parts import Part, parse_part
from bitnet.release.statements import (
    RollbackOrder,
    UpdateStatement,
    parse_rollback_order,
    parse_update_statement,
)
from bitnet.release.trust import Role, TrustRoot, parse_trust_root
from tests.support.release import make_key, make_manifest, make_root

FIRST = string.ascii_letters + string.digits + "_"
NAMES = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from(FIRST),
    st.text(FIRST + ".-", max_size=63),
)
NUMBERS = st.integers(0, (1 << 63) - 1)
DIGESTS = st.binary(min_size=48, max_size=48).map(bytes.hex)
KEYS = st.builds(
    PublicKey,
    NAMES,
    NAMES,
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64).map(lambda seed: hashlib.shake_256(str(seed).encode()).digest(2592)),
)
SIGNATURES = st.builds(
    Signature,
    DIGESTS,
    st.binary(min_size=64, max_size=64),
    st.integers(0, 2**64).map(lambda seed: hashlib.shake_256(str(seed).encode()).digest(4627)),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = sorted(draw(st.sets(NAMES, min_size=1, max_size=64)) - {"MANIFEST", "update.sig"})
    files = tuple(
        FileEntry(
            name,
            draw(st.sampled_from([0o644, 0o755])),
            draw(st.integers(0, 1 << 50)),
            draw(DIGESTS),
        )
        for name in names or ["one"]
    )
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    version = ".".join(str(draw(NUMBERS)) for _ in range(3))
    arch = draw(st.sampled_from(["x86_64", "aarch64"]))
    return Manifest(draw(NAMES), version, high, low, arch, draw(NUMBERS), files)


@st.composite
def roots(draw: st.DrawFn) -> TrustRoot:
    halves = (lambda key: key.ed25519, lambda key: key.ml_dsa_87)  # no two keys share one
    keys = draw(st.lists(KEYS, min_size=1, max_size=6, unique_by=halves))
    keys.sort(key=lambda key: key.key_id)
    roles = {}
    for name in ("root", "release", *(["site"] if draw(st.booleans()) else [])):
        members = draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
        custodians = {key.custodian for key in members}
        threshold = draw(st.integers(1, len(custodians)))
        roles[name] = Role(threshold, tuple(sorted(key.key_id for key in members)))
    used = {key_id for role in roles.values() for key_id in role.key_ids}
    revoked = draw(st.sets(DIGESTS, max_size=3)) - used
    return TrustRoot(draw(NUMBERS), roles, tuple(sorted(revoked)), tuple(keys))


@given(KEYS)
@settings(max_examples=50)
def test_public_key_any_is_read_back(key: PublicKey) -> None:
    """A key that comes back changed would refuse every signature of its owner."""
    assert parse_public_key(key.emit()) == key


@given(st.binary(min_size=1, max_size=400), st.lists(SIGNATURES, max_size=4))
@settings(max_examples=50)
def test_container_any_is_read_back(body: bytes, signatures: list[Signature]) -> None:
    """A statement may hold anything, also lines that look like signatures."""
    by_id = {each.key_id: each for each in signatures}
    ordered = tuple(by_id[key_id] for key_id in sorted(by_id))
    container = Container(body + b"\n", ordered)
    assert parse_container(container.emit()) == container


@given(manifests())
@settings(max_examples=100)
def test_manifest_any_is_read_back(manifest: Manifest) -> None:
    """A manifest is the only list of what is installed."""
    assert parse_manifest(manifest.emit()) == manifest


@given(manifests(), DIGESTS, st.integers(1, (1 << 63) - 1), st.booleans())
@settings(max_examples=50)
def test_update_statement_any_is_read_back(
    manifest: Manifest, digest: str, size: int, bundled: bool
) -> None:
    """What is signed must be what is read."""
    statement = UpdateStatement(manifest, *((digest, size) if bundled else ()))
    assert parse_update_statement(statement.emit()) == statement


@given(roots())
@settings(max_examples=50)
def test_trust_root_any_is_read_back(root: TrustRoot) -> None:
    """Whom a machine believes must not change between writing and reading."""
    assert parse_trust_root(root.emit()) == root


@given(NAMES, NAMES, DIGESTS, st.integers(0, 1 << 62), st.integers(1, (1 << 62) - 1))
@settings(max_examples=50)
def test_rollback_order_any_is_read_back(
    product: str, reason: str, digest: str, to: int, step: int
) -> None:
    """An order permits exactly one step."""
    order = RollbackOrder(product, to + step, to, digest, reason)
    assert parse_rollback_order(order.emit()) == order


@given(DIGESTS, DIGESTS, st.data())
@settings(max_examples=50)
def test_part_any_is_read_back(bundle: str, data: str, draws: st.DataObject) -> None:
    """A part says where it belongs."""
    total = draws.draw(st.integers(1, (1 << 63) - 1))
    offset = draws.draw(st.integers(0, total - 1))
    size = draws.draw(st.integers(1, total - offset))
    count = draws.draw(st.integers(1, 999))
    index = draws.draw(st.integers(1, count))
    part = Part(BundleDigest(bundle, total), index, count, offset, size, data)
    assert len(part.emit()) == 512
    assert parse_part(part.emit()) == part


def test_key_id_is_the_digest_that_the_page_says() -> None:
    """Both sides of the gap must give a key the same id."""
    key = make_key("alice").public
    expected = hashlib.sha384(b"bitnet-key-id v1\n" + key.ed25519 + key.ml_dsa_87).hexdigest()
    assert key.key_id == expected


def test_signature_verifies_in_a_second_implementation_of_ml_dsa() -> None:
    """Context, form or encoding that only one library understands would lock everybody in."""
    key = make_key("alice")
    statement = b"bitnet-update v1\nanything\n"
    signature = key.sign(statement)
    assert ML_DSA_87.verify(key.public.ml_dsa_87, statement, signature.ml_dsa_87, ctx=b"")
    assert not ML_DSA_87.verify(key.public.ml_dsa_87, statement + b"x", signature.ml_dsa_87)


def test_signature_of_a_second_implementation_is_accepted() -> None:
    """The other direction; the public key of a seed must be the same, too."""
    key = make_key("alice")
    public, secret = ML_DSA_87._keygen_internal(key.ml_dsa_87_seed)
    assert public == key.public.ml_dsa_87
    statement = b"bitnet-update v1\nanything\n"
    made = ML_DSA_87.sign(secret, statement, ctx=b"")
    ours = key.sign(statement)
    assert key.public.accepts(statement, Signature(ours.key_id, ours.ed25519, made))


@pytest.mark.parametrize("half", ["ed25519", "ml_dsa_87"])
def test_signature_with_one_bad_half_is_not_accepted(half: str) -> None:
    """Either algorithm alone may be broken one day: both halves are needed."""
    key = make_key("alice")
    statement = b"bitnet-update v1\n"
    good = key.sign(statement)
    other = make_key("bob").sign(statement)
    halves = {name: getattr(good, name) for name in ("ed25519", "ml_dsa_87")}
    bad = Signature(good.key_id, **(halves | {half: getattr(other, half)}))
    assert key.public.accepts(statement, good)
    assert not key.public.accepts(statement, bad)


def test_container_signed_twice_by_one_key_is_refused() -> None:
    """Two signatures of one person are not two persons."""
    container = Container(b"bitnet-update v1\n").signed_by(make_key("alice"))
    with pytest.raises(SignatureError, match="key has signed already: `alice`"):
        container.signed_by(make_key("alice"))


def test_container_orders_signatures_by_key_id() -> None:
    """Who signs first must not change the file."""
    keys = [make_key(name) for name in ("alice", "bob", "carol")]
    one, other = Container(b"x\n"), Container(b"x\n")
    for key in keys:
        one = one.signed_by(key)
    for key in reversed(keys):
        other = other.signed_by(key)
    assert [each.key_id for each in one.signatures] == [each.key_id for each in other.signatures]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("product", "a/b", "product is not a name: `a/b`"),
        ("product", "", "product is not a name: ``"),
        ("version", "2.1", "version is not of the form X.Y.Z: `2.1`"),
        ("version", "2.1.00", "version is not of the form X.Y.Z: `2.1.00`"),
        ("version", f"1.1.{1 << 63}", f"version is not of the form X.Y.Z: `1.1.{1 << 63}`"),
        ("counter", -1, "counter is out of range: `-1`"),
        ("counter", 1 << 63, f"counter is out of range: `{1 << 63}`"),
        ("minimum_counter", 8, "minimum counter is above the counter: `8`"),
        ("architecture", "riscv64", "architecture is not supported: `riscv64`"),
        ("selftest_seed", -1, "selftest-seed is out of range: `-1`"),
        ("files", (), "files are none, too many, out of order, or named twice"),
    ],
)
def test_manifest_with_an_unusable_field_is_refused(
    field: str, value: object, message: str
) -> None:
    """A writer that lets these through makes files that no reader takes."""
    good = make_manifest()
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__}
    with pytest.raises(UsageError) as caught:
        Manifest(**(fields | {field: value}))
    assert caught.value.message == message


@pytest.mark.parametrize("name", ["MANIFEST", "update.sig", ".hidden", "-f", "a/b", "..", "é"])
def test_file_entry_with_an_unusable_name_is_refused(name: str) -> None:
    """Names become files inside the gap."""
    with pytest.raises(UsageError):
        FileEntry(name, 0o644, 1, "0" * 96)


def test_threshold_above_the_custodians_is_refused() -> None:
    """Two keys of one person are one custodian: such a root could never be met."""
    keys = (make_key("one", "ann"), make_key("two", "ann"))
    with pytest.raises(UsageError) as caught:
        make_root(root=(1, keys), release=(2, keys))
    assert caught.value.where == ("role release needs 2 of 1 custodians",)
