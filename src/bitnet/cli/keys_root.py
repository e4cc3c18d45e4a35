"""`bitnet keys root`: the file that says whom a machine believes, and its signatures."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bitnet.cli import render
from bitnet.cli.key_files import (
    digest_facts,
    load_container,
    load_private_key,
    load_public_key,
)
from bitnet.errors import SignatureError, UsageError
from bitnet.files import create_file, replace_file
from bitnet.release.container import Container
from bitnet.release.keys import PublicKey
from bitnet.release.root_edit import (
    add_key,
    find_key,
    next_draft,
    remove_key,
    revoke_key,
    set_threshold,
)
from bitnet.release.trust import (
    Role,
    TrustRoot,
    accept_first_root,
    accept_successor,
    check_threshold,
    parse_trust_root,
)

__all__ = ["register"]

_HELP: Final = """Makes, changes, signs and checks trust.root.

The roles: `root` signs the next root, `release` signs releases, `site` (where it exists) must
sign releases too. Each needs a number of different custodians. A change of a signed root makes a
draft of the next version, which the custodians of the old and of the new root sign one after the
other.

Examples:

\b
  bitnet keys root init --root a.pub --root b.pub --root c.pub --root-threshold 2 \\
      --release a.pub --release b.pub --release-threshold 2 --output trust.root
  bitnet keys root sign trust.root --key a.key
  bitnet keys root sign trust.root --key b.key --add
  bitnet keys root verify trust.root
  bitnet keys root revoke trust.root b-2026 --output trust.root.2
"""

_ROOT: Final = "trust root"

_File = Annotated[Path, typer.Argument(metavar="FILE", help="The trust.root.")]
_Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Where the draft goes; a draft: its own file."),
]
_RoleName = Annotated[
    str, typer.Option("--role", metavar="root|release|site", help="Role that is changed.")
]
_KeyName = Annotated[
    str, typer.Argument(metavar="KEY", help="Name of the key, or digits of its id.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _load(path: Path) -> tuple[Container, TrustRoot]:
    container = load_container(path, _ROOT)
    return container, parse_trust_root(container.statement)


def _digest(container: Container) -> str:
    return hashlib.sha384(container.statement).hexdigest()


def _count_signers(root: TrustRoot, role: str, container: Container) -> str:
    """Returns how far the signatures of a role are: `1 of 2 (alice)`."""
    members = {key.key_id: key for key in root.members(role)}
    people = sorted(
        {
            members[each.key_id].custodian
            for each in container.signatures
            if each.key_id in members and members[each.key_id].accepts(container.statement, each)
        }
    )
    return f"{len(people)} of {root.roles[role].threshold} ({', '.join(people) or 'nobody'})"


def _show(container: Container, root: TrustRoot) -> None:
    facts = [("version", str(root.version))]
    for name, role in root.roles.items():
        keys = root.members(name)
        people = ", ".join(f"{key.name} ({key.custodian})" for key in keys)
        facts.append((f"role {name}", f"{role.threshold} of {people}"))
    facts += [("revoked", key_id) for key_id in root.revoked]
    facts += [("signed", _count_signers(root, "root", container))]
    render.print_facts(facts + digest_facts("digest", _digest(container)))


def _as_json(container: Container, root: TrustRoot) -> dict[str, Any]:
    return {
        "version": root.version,
        "digest": _digest(container),
        "roles": {
            name: {"threshold": role.threshold, "key_ids": list(role.key_ids)}
            for name, role in root.roles.items()
        },
        "revoked": list(root.revoked),
        "keys": [
            {"name": key.name, "custodian": key.custodian, "key_id": key.key_id}
            for key in root.keys
        ],
        "signatures": [each.key_id for each in container.signatures],
    }


def _change(path: Path, output: Path | None, change: Callable[[TrustRoot], TrustRoot]) -> None:
    """Writes the draft that a change makes of a root, and shows it."""
    container, root = _load(path)
    issued = bool(container.signatures)
    if issued and output is None:
        raise UsageError(
            f"root is signed and is not overwritten: `{path}`",
            hint="pass `--output` with a name for the draft of the next version",
        )
    changed = change(next_draft(root, issued=issued))
    if "site" in root.roles and "site" not in changed.roles:
        render.print_warning(
            "role `site` goes with its last key: `release` alone then decides about releases and "
            "about orders to go back",
            hint="add another key to `site` before this draft is signed, unless that is meant",
        )
    draft = Container(changed.emit())
    if output is None:
        replace_file(path, draft.emit())
    else:
        create_file(output, draft.emit(), mode=0o644)
    render.print_facts([("wrote", f"{output or path}, a draft to be signed")])
    _show(draft, changed)


def init(
    root_keys: Annotated[
        list[Path], typer.Option("--root", metavar="PUB", help="Key of role root; repeat.")
    ],
    release_keys: Annotated[
        list[Path], typer.Option("--release", metavar="PUB", help="Key of role release; repeat.")
    ],
    root_threshold: Annotated[
        int, typer.Option("--root-threshold", metavar="M", help="Custodians that role root needs.")
    ],
    release_threshold: Annotated[
        int, typer.Option("--release-threshold", metavar="M", help="The same of role release.")
    ],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The trust.root.")],
    site_keys: Annotated[
        list[Path] | None, typer.Option("--site", metavar="PUB", help="Key of role site; repeat.")
    ] = None,
    site_threshold: Annotated[
        int | None, typer.Option("--site-threshold", metavar="M", help="The same of role site; 1.")
    ] = None,
) -> None:
    """Writes the draft of the first root, version 1."""
    if site_threshold is not None and not site_keys:
        raise UsageError("role `site` has no keys", hint="name them with `--site`")
    keys: dict[str, PublicKey] = {}
    roles: dict[str, Role] = {}
    for name, paths, threshold in (
        ("root", root_keys, root_threshold),
        ("release", release_keys, release_threshold),
        ("site", site_keys or [], 1 if site_threshold is None else site_threshold),
    ):
        members = {key.key_id: key for key in map(load_public_key, paths)}
        keys.update(members)
        if members:
            roles[name] = Role(threshold, tuple(sorted(members)))
    root = TrustRoot(1, roles, (), tuple(keys[key_id] for key_id in sorted(keys)))
    draft = Container(root.emit())
    create_file(output, draft.emit(), mode=0o644)
    render.print_facts([("wrote", f"{output}, a draft to be signed")])
    _show(draft, root)


def add(
    path: _File,
    key: Annotated[Path, typer.Argument(metavar="PUB", help="Public key that is added.")],
    role: _RoleName,
    threshold: Annotated[
        int | None, typer.Option("--threshold", metavar="M", help="Custodians needed from now on.")
    ] = None,
    output: _Output = None,
) -> None:
    """Adds a key to a role."""
    _change(path, output, lambda root: add_key(root, role, load_public_key(key), threshold))


def remove(path: _File, key: _KeyName, role: _RoleName, output: _Output = None) -> None:
    """Takes a key out of a role."""
    _change(path, output, lambda root: remove_key(root, role, find_key(root, key)))


def revoke(path: _File, key: _KeyName, output: _Output = None) -> None:
    """Takes a key out of all roles; it never comes back."""
    _change(path, output, lambda root: revoke_key(root, find_key(root, key)))


def threshold(
    path: _File,
    count: Annotated[int, typer.Argument(metavar="M", help="Custodians needed.")],
    role: _RoleName,
    output: _Output = None,
) -> None:
    """Sets how many custodians a role needs."""
    _change(path, output, lambda root: set_threshold(root, role, count))


def sign(
    path: _File,
    key: Annotated[Path, typer.Option("--key", metavar="KEY", help="Private key of a custodian.")],
    further: Annotated[
        bool, typer.Option("--add", help="Add to the signatures of others that are there.")
    ] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", metavar="FILE", help="Instead of a prompt."),
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option("--previous", metavar="FILE", help="Installed root; shows its threshold too."),
    ] = None,
) -> None:
    """Signs a root, or a draft of the next one."""
    container, root = _load(path)
    if bool(container.signatures) != further:
        state = "is signed by others" if container.signatures else "carries no signature yet"
        flag = "pass `--add`" if container.signatures else "leave `--add` away"
        raise UsageError(f"root {state}: `{path}`", hint=flag)
    _show(container, root)
    private = load_private_key(key, passphrase_file)
    installed = None if previous is None else _load(previous)[1]
    needed = {each.key_id for each in (*root.members("root"), *_old_members(installed))}
    if previous is not None and private.public.key_id not in needed:
        raise SignatureError(
            f"key has no say in this root: `{private.name}`", where="it is in no role `root`"
        )
    signed = container.signed_by(private)
    replace_file(path, signed.emit())
    render.print_facts([("signed", _count_signers(root, "root", signed))])
    if installed is not None:
        render.print_facts([("by the old", _count_signers(installed, "root", signed))])


def _old_members(installed: TrustRoot | None) -> tuple[PublicKey, ...]:
    return () if installed is None else installed.members("root")


def show(path: _File, as_json: _Json = False) -> None:
    """Shows whom a root believes, and its digest in hex and words; verifies nothing."""
    container, root = _load(path)
    if as_json:
        render.print_json(_as_json(container, root))
    else:
        _show(container, root)


def verify(
    path: _File,
    previous: Annotated[
        Path | None,
        typer.Option("--previous", metavar="FILE", help="Installed root that this one follows."),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="HEX", help="Digest that a first root must have."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Checks a root as the machines in the gap do.

    Without `--previous` or `--digest` only its own threshold is checked: it is then to be trusted
    by comparing the digest that is shown.
    """
    container, root = _load(path)
    if previous is not None:
        accept_successor(_load(previous)[1], container)
    elif digest is not None:
        accept_first_root(container, digest.lower().replace(" ", ""))
    else:
        check_threshold(root, "root", container)
    if as_json:
        render.print_json({"verified": True, **_as_json(container, root)})
    else:
        render.print_facts([("verified", str(path))])
        _show(container, root)


def register(app: typer.Typer) -> None:
    """Adds the commands to `bitnet keys`."""
    root = render.create_app(_HELP)
    for command in (init, add, remove, revoke, threshold, sign, show, verify):
        root.command(command.__name__, no_args_is_help=True)(command)
    app.add_typer(root, name="root")
