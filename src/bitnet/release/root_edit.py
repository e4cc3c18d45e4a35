"""Changes to a trust root, each a pure function from a root to the next draft.

A root that carries signatures has been issued: a change makes a draft of the next version. A draft,
without signatures, keeps its version while it is changed.
"""

import dataclasses

from bitnet.errors import UsageError
from bitnet.release.keys import PublicKey
from bitnet.release.trust import ROLES, Role, TrustRoot

__all__ = ["add_key", "find_key", "next_draft", "remove_key", "revoke_key", "set_threshold"]


def next_draft(root: TrustRoot, *, issued: bool) -> TrustRoot:
    """Returns the draft that a change starts from: the next version where `root` was issued."""
    return dataclasses.replace(root, version=root.version + 1) if issued else root


def find_key(root: TrustRoot, wanted: str) -> PublicKey:
    """Returns the key of the root with this name, or whose id begins with `wanted` (8 digits on).

    Raises:
        UsageError: None or several fit.
    """
    found = [
        key
        for key in root.keys
        if key.name == wanted or (len(wanted) >= 8 and key.key_id.startswith(wanted))
    ]
    if len(found) != 1:
        raise UsageError(
            f"key is not in the root, or not the only one: `{wanted}`",
            where=tuple(f"key  {key.key_id[:16]}  {key.name}" for key in root.keys),
            hint="pass its name, or enough digits of its id",
        )
    return found[0]


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise UsageError(f"role does not exist: `{role}`", hint=f"use one of {', '.join(ROLES)}")


def _with_roles(root: TrustRoot, roles: dict[str, Role], *further: PublicKey) -> TrustRoot:
    """Returns the root with these roles and the keys that they need, no others."""
    known = {key.key_id: key for key in (*root.keys, *further)}
    used = sorted({key_id for role in roles.values() for key_id in role.key_ids})
    return dataclasses.replace(root, roles=roles, keys=tuple(known[each] for each in used))


def add_key(root: TrustRoot, role: str, key: PublicKey, threshold: int | None = None) -> TrustRoot:
    """Returns the root with one more key in a role, which is made where it does not exist.

    Raises:
        UsageError: The role cannot be, has the key already, or the key is revoked; or the
            threshold does not fit.
    """
    _check_role(role)
    old = root.roles.get(role, Role(1, ()))
    if key.key_id in old.key_ids:
        raise UsageError(f"key is in the role already: `{key.name}`", where=f"role {role}")
    if key.key_id in root.revoked:
        raise UsageError(f"key is revoked: `{key.name}`", hint="make a new key for this person")
    new = Role(
        old.threshold if threshold is None else threshold, tuple(sorted((*old.key_ids, key.key_id)))
    )
    return _with_roles(root, {**root.roles, role: new}, key)


def remove_key(root: TrustRoot, role: str, key: PublicKey) -> TrustRoot:
    """Returns the root with one key less in a role; `site` goes with its last key.

    Raises:
        UsageError: The role has not this key, or too few custodians would be left.
    """
    _check_role(role)
    old = root.roles.get(role)
    if old is None or key.key_id not in old.key_ids:
        raise UsageError(f"key is not in the role: `{key.name}`", where=f"role {role}")
    left = tuple(each for each in old.key_ids if each != key.key_id)
    roles = {**root.roles, role: Role(old.threshold, left)}
    if role == "site" and not left:
        del roles["site"]
    return _with_roles(root, roles)


def revoke_key(root: TrustRoot, key: PublicKey) -> TrustRoot:
    """Returns the root without a key that never comes back; `site` goes with its last one.

    Raises:
        UsageError: Too few custodians would be left in a role.
    """
    roles = {
        name: Role(role.threshold, tuple(each for each in role.key_ids if each != key.key_id))
        for name, role in root.roles.items()
    }
    revoked = tuple(sorted({*root.revoked, key.key_id}))
    if "site" in roles and not roles["site"].key_ids:
        del roles["site"]
    used = sorted({key_id for role in roles.values() for key_id in role.key_ids})
    keys = tuple(root.key(key_id) for key_id in used)
    return TrustRoot(root.version, roles, revoked, keys)


def set_threshold(root: TrustRoot, role: str, threshold: int) -> TrustRoot:
    """Returns the root with another number of custodians needed for a role.

    Raises:
        UsageError: The role does not exist, or has not so many custodians.
    """
    _check_role(role)
    if role not in root.roles:
        raise UsageError(f"role has no keys: `{role}`", hint="add a key to it first")
    roles = {**root.roles, role: Role(threshold, root.roles[role].key_ids)}
    return dataclasses.replace(root, roles=roles)
