"""`bitnet keys`: signers' keys, and through `bitnet keys root` whom a machine believes."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from bitnet.cli import keys_root, render
from bitnet.cli.key_files import ask_passphrase, digest_facts, load_public_key
from bitnet.errors import UsageError
from bitnet.files import create_file
from bitnet.release.keys import SEED_BYTES, PrivateKey, PublicKey
from bitnet.release.sealed_key import NONCE_BYTES, SALT_BYTES, seal_key
from bitnet.release.text import check_name
from bitnet.release.words import group_hex, to_words

__all__ = ["register"]

_HELP: Final = """Makes and shows keys of signers, and the root of trust.

A signer has an Ed25519 and an ML-DSA-87 key in one file; both halves sign, both are verified.
Private keys are encrypted under a passphrase and never leave the builder's side.

Examples:

\b
  bitnet keys generate alice-2026 --custodian alice --output keys
  bitnet keys show keys/alice-2026.pub
  bitnet keys root verify trust.root
"""

_GENERATE_HELP: Final = """Makes a signer's key: NAME.key, encrypted, and NAME.pub.

The custodian is the person who keeps the key: for a threshold a person counts once, with however
many keys. An existing file is never overwritten.

Examples:

\b
  bitnet keys generate alice-2026 --custodian alice --output keys
  bitnet keys generate alice-2026 --custodian alice --output keys \\
      --passphrase-file secret.txt
"""

_SHOW_HELP: Final = """Shows a public key and its id, in hex and as words to read over a telephone.

Example:

\b
  bitnet keys show keys/alice-2026.pub
"""


def key_json(key: PublicKey) -> dict[str, object]:
    """Returns what `--json` prints of a key."""
    return {
        "name": key.name,
        "custodian": key.custodian,
        "key_id": key.key_id,
        "groups": group_hex(key.key_id),
        "words": to_words(bytes.fromhex(key.key_id)),
        "ed25519": key.ed25519.hex(),
    }


def _print_key(key: PublicKey) -> None:
    facts = [("name", key.name), ("custodian", key.custodian)]
    render.print_facts(facts + digest_facts("key id", key.key_id))


def generate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key and its files.")],
    custodian: Annotated[
        str, typer.Option("--custodian", metavar="PERSON", help="Who keeps the key.")
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Existing folder of the two files.")
    ],
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="Its first line instead of a prompt."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as one JSON object.")
    ] = False,
) -> None:
    check_name(name, "name of the key")
    check_name(custodian, "custodian")
    if not output.is_dir():
        raise UsageError(f"folder does not exist: `{output}`", hint="make it first")
    private, public = output / f"{name}.key", output / f"{name}.pub"
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise UsageError(
                f"file exists already: `{path}`", hint="choose another name; nothing is overwritten"
            )
    passphrase = ask_passphrase(passphrase_file, what=private.name, twice=True)
    seeds = (os.urandom(SEED_BYTES), os.urandom(SEED_BYTES))
    key = PrivateKey(name, custodian, *seeds).check()
    sealed = seal_key(key, passphrase, salt=os.urandom(SALT_BYTES), nonce=os.urandom(NONCE_BYTES))
    create_file(private, sealed, mode=0o600)
    create_file(public, key.public.emit(), mode=0o644)
    if as_json:
        written = {"private": str(private), "public": str(public)}
        render.print_json({**written, **key_json(key.public)})
        return
    render.print_facts([("wrote", f"{private} (encrypted), {public}")])
    _print_key(key.public)


def show(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A public key, NAME.pub.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    key = load_public_key(path)
    if as_json:
        render.print_json(key_json(key))
    else:
        _print_key(key)


def register(app: typer.Typer) -> None:
    """Adds the commands to an application."""
    keys = render.create_app(_HELP)
    keys.command("generate", help=render.reflow_text(_GENERATE_HELP), no_args_is_help=True)(
        generate
    )
    keys.command("show", help=render.reflow_text(_SHOW_HELP), no_args_is_help=True)(show)
    keys_root.register(keys)
    app.add_typer(keys, name="keys")
