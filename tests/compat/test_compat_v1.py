"""Files written when the formats were fixed: they must be read and believed for ever.

`v1/` is never written again. A change that breaks this test breaks every machine in the field.
"""

import hashlib
import io
from pathlib import Path

from bitnet.release.archive import check_bundle
from bitnet.release.container import parse_container
from bitnet.release.keys import parse_public_key
from bitnet.release.manifest import parse_manifest
from bitnet.release.parts import join_parts
from bitnet.release.sealed_key import open_key
from bitnet.release.trust import (
    accept_first_root,
    accept_order,
    accept_successor,
    accept_update,
    root_of_one_key,
)
from tests.support.installation import Installation

V1 = Path(__file__).parent / "v1"


def read(name: str) -> bytes:
    return (V1 / name).read_bytes()


def test_roots_and_what_they_accept_are_still_believed() -> None:
    """Root 1 by its digest, root 2 after it, a release under each, an order under the second."""
    digest = read("trust.root.v1.sha384").decode().strip()
    first = accept_first_root(parse_container(read("trust.root.v1")), digest)
    second = accept_successor(first, parse_container(read("trust.root.v2")))
    by_first, _ = accept_update(first, parse_container(read("update.sig")))
    by_second, _ = accept_update(second, parse_container(read("update.site.sig")))
    assert by_first == by_second
    assert by_first.manifest == parse_manifest(read("MANIFEST"))
    order = accept_order(second, parse_container(read("rollback.order")))
    assert (order.from_counter, order.to_counter) == (7, 2)
    assert order.digest == hashlib.sha384(read("MANIFEST")).hexdigest()


def test_root_is_installed_by_its_digest(tmp_path: Path) -> None:
    """The digest that custodians wrote on paper is the one that a machine compares."""
    host = Installation(tmp_path)
    digest = read("trust.root.v1.sha384").decode().strip()
    assert host.install_root(read("trust.root.v1"), digest).returncode == 0
    assert host.state()["root"] == f"1 {digest}"
    assert host.install_root(read("trust.root.v2"), None).returncode == 0


def test_keys_still_open_and_sign() -> None:
    """A custodian's key of today is used in many years."""
    public = parse_public_key(read("alice.pub"))
    private = open_key(read("alice.key"), read("passphrase").decode().strip())
    assert private.public == public
    accept_update(root_of_one_key(public), parse_container(read("update.sig")))


def test_bundle_and_parts_are_still_read() -> None:
    """Media stay in safes for years."""
    data = read("bitnet-v2.1.0.tar.zst")
    manifest, digest = check_bundle(io.BytesIO(data), "bundle", len(data))
    assert manifest == parse_manifest(read("MANIFEST"))
    joined = io.BytesIO()
    assert join_parts(V1.glob("*.part-*"), joined) == digest
    assert joined.getvalue() == data
