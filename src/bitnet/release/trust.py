"""The trust root and what is accepted under it: a pure state machine, bytes in, decision out.

The same rules stand in the gap; this side uses them to refuse a mistake before it travels, and as
the tests' second implementation. Source: docs/formats/release.md, Trust root.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bitnet.errors import FormatError, IntegrityError, RollbackError, SignatureError, UsageError
from bitnet.release.container import STATEMENT_BYTES_MAX, Container
from bitnet.release.keys import ML_DSA_PUBLIC_BYTES, PublicKey
from bitnet.release.statements import (
    RollbackOrder,
    UpdateStatement,
    parse_rollback_order,
    parse_update_statement,
)
from bitnet.release.text import (
    DIGEST,
    NAME,
    NUMBER,
    LineReader,
    check_canonical,
    check_number,
    decode_base64,
    encode_base64,
)

__all__ = [
    "KEY_COUNT_MAX",
    "ROLES",
    "Role",
    "TrustRoot",
    "accept_first_root",
    "accept_order",
    "accept_successor",
    "accept_update",
    "check_threshold",
    "parse_trust_root",
    "root_of_one_key",
]

KEY_COUNT_MAX: Final = 64
ROLES: Final = ("root", "release", "site")


@dataclass(frozen=True)
class Role:
    """Who may sign for something, and how many of them must: key ids in increasing order."""

    threshold: int
    key_ids: tuple[str, ...]


@dataclass(frozen=True)
class TrustRoot:
    """Whom a machine believes.

    Attributes:
        version: Increases by one with every root.
        roles: `root` and `release`, and `site` where the site has a say of its own.
        revoked: Key ids that never come back, in increasing order.
        keys: In increasing order of key id.
    """

    version: int
    roles: dict[str, Role]
    revoked: tuple[str, ...]
    keys: tuple[PublicKey, ...]

    def __post_init__(self) -> None:
        check_number(self.version, "version of the root")
        problem = self._find_problem()
        if problem is not None:
            raise UsageError("trust root is not usable", where=problem)

    def _find_problem(self) -> str | None:
        if not {"root", "release"} <= self.roles.keys() <= set(ROLES):
            return "roles are `root`, `release` and perhaps `site`"
        ids = [key.key_id for key in self.keys]
        if ids != sorted(set(ids)) or len(ids) > KEY_COUNT_MAX:
            return f"keys must increase by key id, each once, at most {KEY_COUNT_MAX}"
        for half in ("ed25519", "ml_dsa_87"):
            if len({getattr(key, half) for key in self.keys}) != len(self.keys):
                return "two keys share a half"
        if list(self.revoked) != sorted(set(self.revoked)):
            return "revoked key ids must increase, each once"
        for name, role in self.roles.items():
            if list(role.key_ids) != sorted(set(role.key_ids)):
                return f"key ids of role {name} must increase, each once"
            if not set(role.key_ids) <= set(ids):
                return f"role {name} names a key that is not given"
            if set(role.key_ids) & set(self.revoked):
                return f"role {name} names a revoked key"
            custodians = len({self.key(key_id).custodian for key_id in role.key_ids})
            if not 1 <= role.threshold <= custodians:
                return f"role {name} needs {role.threshold} of {custodians} custodians"
        return None

    def key(self, key_id: str) -> PublicKey:
        """Returns the key of an id that the root is known to hold."""
        return next(key for key in self.keys if key.key_id == key_id)

    def members(self, role: str) -> tuple[PublicKey, ...]:
        """Returns the keys of a role; none where the role does not exist."""
        found = self.roles.get(role)
        return () if found is None else tuple(self.key(key_id) for key_id in found.key_ids)

    def emit(self) -> bytes:
        """Returns the statement's bytes."""
        lines = ["bitnet-trust-root v1", f"version {self.version}"]
        for name in ROLES:
            if name in self.roles:
                role = self.roles[name]
                lines.append(f"role {name} {role.threshold} {' '.join(role.key_ids)}")
        lines += [f"revoked {key_id}" for key_id in self.revoked]
        lines += [
            f"key {key.key_id} {key.name} {key.custodian} {key.ed25519.hex()} "
            f"{encode_base64(key.ml_dsa_87)}"
            for key in self.keys
        ]
        return ("\n".join(lines) + "\n").encode("ascii")


def parse_trust_root(data: bytes) -> TrustRoot:
    """Returns what a trust root's statement says; nothing is verified.

    Raises:
        FormatError: The text does not keep to its format, or says what no root may.
    """
    reader = LineReader(data, "trust root", STATEMENT_BYTES_MAX)
    reader.take("bitnet-trust-root v1", "bitnet-trust-root v1")
    (digits,) = reader.take(f"version {NUMBER}", "version N")
    version = reader.number(digits)
    roles = {}
    for name in ROLES:
        pattern = rf"role {name} {NUMBER} ({DIGEST}(?: {DIGEST})*)"
        form = f"role {name} M KEY-ID …"
        found = reader.take_if(pattern) if name == "site" else reader.take(pattern, form)
        if found is not None:
            roles[name] = Role(reader.number(found[0]), tuple(found[1].split(" ")))
    revoked = []
    while (line := reader.take_if(f"revoked {DIGEST}")) is not None:
        revoked.append(line[0])
    keys: list[PublicKey] = []
    pattern = rf"key {DIGEST} {NAME} {NAME} ([0-9a-f]{{64}}) ([A-Za-z0-9+/=]+)"
    while (line := reader.take_if(pattern)) is not None:
        if len(keys) == KEY_COUNT_MAX:
            raise reader.refusal(f"more than {KEY_COUNT_MAX} keys")
        lattice = decode_base64(line[4], ML_DSA_PUBLIC_BYTES)
        if lattice is None:
            raise reader.refusal("not the base64 of 2592 bytes")
        key = PublicKey(line[1], line[2], bytes.fromhex(line[3]), lattice)
        if key.key_id != line[0]:
            raise reader.refusal("key id is not that of the key")
        keys.append(key)
    reader.finish()
    try:
        root = TrustRoot(version, roles, tuple(revoked), tuple(keys))
    except UsageError as error:
        raise FormatError("trust root is not usable", where=error.where) from None
    check_canonical(data, root.emit(), "trust root")
    return root


def root_of_one_key(key: PublicKey) -> TrustRoot:
    """Returns the root that a single public key stands for: 1-of-1 for releases."""
    role = Role(1, (key.key_id,))
    return TrustRoot(0, {"root": role, "release": role}, (), (key,))


def check_threshold(root: TrustRoot, role: str, container: Container) -> tuple[PublicKey, ...]:
    """Returns who signed validly for a role: enough different custodians with different keys.

    Raises:
        SignatureError: Too few; the error lists whose signature counts and whose does not.
    """
    members = {key.key_id: key for key in root.members(role)}
    signers: list[PublicKey] = []
    invalid: list[PublicKey] = []
    for signature in container.signatures:
        key = members.get(signature.key_id)
        if key is not None:
            valid = key.accepts(container.statement, signature)
            (signers if valid else invalid).append(key)
    custodians = sorted({key.custodian for key in signers})
    threshold = root.roles[role].threshold
    if len(custodians) < threshold:
        where = [f"role      {role}, {len(custodians)} of {threshold} custodians have signed"]
        where += [f"valid     {key.name} ({key.custodian})" for key in signers]
        where += [f"invalid   {key.name} ({key.custodian})" for key in invalid]
        where += [f"missing   {name}" for name in _missing(members.values(), custodians)]
        raise SignatureError("too few valid signatures", where=tuple(where))
    return tuple(signers)


def _missing(members: Iterable[PublicKey], custodians: list[str]) -> list[str]:
    return sorted({key.custodian for key in members} - set(custodians))


def accept_first_root(container: Container, digest: str) -> TrustRoot:
    """Returns a root that is trusted because a person compared its digest.

    Args:
        container: As read from trust.root.
        digest: SHA-384 of the statement in hex, from another way than the file came.

    Raises:
        IntegrityError: The statement has another digest.
        FormatError: It is no trust root.
        SignatureError: It does not carry its own threshold.
    """
    found = hashlib.sha384(container.statement).hexdigest()
    if found != digest:
        raise IntegrityError(
            "trust root has another digest", where=(f"found     {found}", f"expected  {digest}")
        )
    root = parse_trust_root(container.statement)
    check_threshold(root, "root", container)
    return root


def accept_successor(installed: TrustRoot, container: Container) -> TrustRoot:
    """Returns the root that follows an installed one.

    Raises:
        FormatError: It is no trust root.
        RollbackError: Its version is not exactly one higher.
        SignatureError: A threshold is not met, or a revoked key is revoked no longer.
    """
    # 1. The statement keeps to its format.
    root = parse_trust_root(container.statement)
    # 2. No version is skipped and none comes back.
    if root.version != installed.version + 1:
        raise RollbackError(
            f"trust root does not follow the installed one: `{root.version}`",
            where=f"installed {installed.version}, expected {installed.version + 1}",
        )
    # 3. What was revoked stays revoked.
    returned = sorted(set(installed.revoked) - set(root.revoked))
    if returned:
        raise SignatureError(
            "trust root takes a revocation back",
            where=tuple(f"key id  {each}" for each in returned),
        )
    # 4. Those who were believed until now agree. 5. Those who will be believed agree.
    check_threshold(installed, "root", container)
    check_threshold(root, "root", container)
    return root


def accept_update(
    root: TrustRoot, container: Container
) -> tuple[UpdateStatement, dict[str, tuple[PublicKey, ...]]]:
    """Returns an update that enough people signed, and who, by role.

    Raises:
        FormatError: It is no update statement.
        SignatureError: The threshold of `release`, or of `site` where it exists, is not met.
    """
    statement = parse_update_statement(container.statement)
    roles = [name for name in ("release", "site") if name in root.roles]
    return statement, {name: check_threshold(root, name, container) for name in roles}


def accept_order(root: TrustRoot, container: Container) -> RollbackOrder:
    """Returns a rollback order that enough people signed.

    Raises:
        FormatError: It is no rollback order.
        SignatureError: The threshold of `site`, or of `release` without it, is not met.
    """
    order = parse_rollback_order(container.statement)
    check_threshold(root, "site" if "site" in root.roles else "release", container)
    return order
