"""`bitnet sign`: update.sig and rollback orders, gathered from several people."""

from pathlib import Path
from typing import Annotated, Final

import typer

from bitnet.cli import render
from bitnet.cli.key_files import ask_passphrase, digest_facts, load_container, load_private_key
from bitnet.errors import SignatureError, ToolkitError, UsageError
from bitnet.files import check_output, create_file, open_regular, read_bounded, replace_file
from bitnet.release.archive import check_bundle
from bitnet.release.container import Container
from bitnet.release.digests import digest_file
from bitnet.release.manifest import MANIFEST_BYTES_MAX, FileEntry, Manifest, parse_manifest
from bitnet.release.openssf import write_openssf
from bitnet.release.statements import RollbackOrder, UpdateStatement
from bitnet.release.trust import TrustRoot, check_threshold, parse_trust_root
from bitnet.seal.toolchain import host_arch

__all__ = ["register"]

_HELP: Final = """Signs a release, a model, or an order to go back.

A bundle is read to its end and checked against its manifest before it is signed. Others add their
signatures to the same file later, each with `--add`, on other machines and other days; who signs
sees what is signed. The signature file carries the manifest: with it alone any file of the release
can be checked.

Examples:

\b
  bitnet sign --bundle bitnet-v2.1.0.tar.zst --key alice.key --output update.sig
  bitnet sign --bundle bitnet-v2.1.0.tar.zst --key bob.key --output update.sig --add
  bitnet sign --model model.bin --key alice.key --output update.sig
  bitnet sign --manifest old/MANIFEST --rollback-from 7 --reason bad-answers \\
      --key site.key --output rollback.order
"""

_CHOICE: Final = "pass one of `--bundle`, `--manifest` and `--model`"
_HOST_ARCH: Final = host_arch()

_Key = Annotated[Path, typer.Option("--key", metavar="KEY", help="Private key of a custodian.")]
_Output = Annotated[
    Path, typer.Option("--output", metavar="FILE", help="Signature file, such as update.sig.")
]
_Bundle = Annotated[
    Path | None, typer.Option("--bundle", metavar="FILE", help="Bundle to check and sign.")
]
_ManifestFile = Annotated[
    Path | None,
    typer.Option("--manifest", metavar="FILE", help="MANIFEST to sign without a bundle."),
]
_Model = Annotated[
    Path | None, typer.Option("--model", metavar="FILE", help="A model.bin to sign alone.")
]
_Add = Annotated[bool, typer.Option("--add", help="Add to the signatures of others in the file.")]
_Passphrase = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="Instead of a prompt.")
]
_Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="FILE", help="A trust.root: show what is still missing."),
]
_From = Annotated[
    int | None,
    typer.Option("--rollback-from", metavar="N", help="Order to go back from this counter."),
]
_Reason = Annotated[
    str | None, typer.Option("--reason", metavar="NAME", help="Why to go back, one word.")
]
_Openssf = Annotated[
    bool, typer.Option("--openssf", help="Also write an OpenSSF Model Signing file.")
]
_OpenssfKey = Annotated[
    Path | None, typer.Option("--openssf-key", metavar="PEM", help="P-384 key for it, encrypted.")
]
_OpenssfPassphrase = Annotated[
    Path | None,
    typer.Option("--openssf-passphrase-file", metavar="FILE", help="Its passphrase, not asked."),
]
_Product = Annotated[str, typer.Option("--product", help="With `--model`.")]
_Version = Annotated[str, typer.Option("--version", help="With `--model`.")]
_Counter = Annotated[int, typer.Option("--counter", help="With `--model`.")]
_Arch = Annotated[str, typer.Option("--arch", help="With `--model`.")]


def _statement_of_bundle(path: Path) -> UpdateStatement:
    """Returns what is to be signed of a bundle, after every byte of it has been checked."""
    try:
        with open_regular(path) as file, render.progress_bar("checking") as bar:
            progress = bar or (lambda *_: None)
            total = path.stat().st_size
            manifest, digest = check_bundle(file, path.name, total, progress=progress)
    except OSError as error:
        raise UsageError(
            f"bundle cannot be read: `{path}`", where=error.strerror or str(error)
        ) from None
    return UpdateStatement(manifest, digest.digest, digest.size)


def _statement_of_model(
    path: Path, product: str, version: str, counter: int, arch: str
) -> UpdateStatement:
    with render.progress_bar("reading") as bar:
        digest = digest_file(path, bar or (lambda *_: None))
    entry = FileEntry("model.bin", 0o644, digest.size, digest.digest)
    return UpdateStatement(Manifest(product, version, counter, 0, arch, 0, (entry,)))


def _load_manifest(path: Path) -> Manifest:
    return parse_manifest(read_bounded(path, "manifest", MANIFEST_BYTES_MAX))


def _gather(output: Path, statement: bytes, *, further: bool) -> Container:
    """Returns the container that a signature is added to: a new one, or the file's own."""
    if not further:
        if output.exists() or output.is_symlink():
            raise UsageError(
                f"signature file exists already: `{output}`",
                hint="pass `--add` to add a signature to it",
            )
        return Container(statement)
    container = load_container(output)
    if container.statement != statement:
        raise SignatureError(
            f"signature file is for something else: `{output}`",
            hint="take the signature file that came with what you sign",
        )
    return container


def _show_update(statement: UpdateStatement) -> None:
    manifest = statement.manifest
    counter = f"{manifest.counter}, floor {manifest.minimum_counter}"
    facts = [
        ("product", f"{manifest.product} {manifest.version} for {manifest.architecture}"),
        ("counter", counter),
        ("files", ", ".join(entry.name for entry in manifest.files)),
    ]
    render.print_facts(facts + digest_facts("manifest", manifest.digest))
    if statement.bundle_digest is not None:
        render.print_facts(digest_facts("bundle", statement.bundle_digest))


def _show_state(container: Container, trust: TrustRoot | None, roles: tuple[str, ...]) -> None:
    render.print_facts([("signatures", str(len(container.signatures)))])
    for role in roles if trust is not None else ():
        if trust is None or role not in trust.roles:
            continue
        try:
            signers = check_threshold(trust, role, container)
        except ToolkitError as error:
            render.print_facts([(f"role {role}", error.where[0].split(", ", 1)[-1])])
        else:
            names = ", ".join(f"{key.name} ({key.custodian})" for key in signers)
            render.print_facts([(f"role {role}", f"complete: {names}")])


def _check_options(
    given: list[Path], order: int | None, reason: str | None, manifest: Path | None
) -> None:
    if len(given) != 1:
        raise UsageError("not one thing to sign is named", hint=_CHOICE)
    if (order is None) != (reason is None) or (order is not None and manifest is None):
        raise UsageError(
            "rollback order is not complete",
            hint="pass `--rollback-from`, `--reason` and `--manifest` together",
        )


def sign(
    key: _Key,
    output: _Output,
    bundle: _Bundle = None,
    manifest: _ManifestFile = None,
    model: _Model = None,
    add: _Add = False,
    passphrase_file: _Passphrase = None,
    root: _Root = None,
    rollback_from: _From = None,
    reason: _Reason = None,
    openssf: _Openssf = False,
    openssf_key: _OpenssfKey = None,
    openssf_passphrase_file: _OpenssfPassphrase = None,
    product: _Product = "bitnet",
    version: _Version = "0.0.0",
    counter: _Counter = 0,
    arch: _Arch = _HOST_ARCH,
) -> None:
    given = [path for path in (bundle, manifest, model) if path is not None]
    _check_options(given, rollback_from, reason, manifest)
    if openssf != (openssf_key is not None) or (openssf and manifest is not None):
        raise UsageError(
            "OpenSSF signature is not complete",
            hint="pass `--openssf` and `--openssf-key` together, with `--model` or `--bundle`",
        )
    inputs = (*given, key, passphrase_file, root, openssf_key, openssf_passphrase_file)
    _check_outputs(output, [path for path in inputs if path is not None], openssf=openssf)
    if rollback_from is not None and manifest is not None:
        old = _load_manifest(manifest)
        order = RollbackOrder(old.product, rollback_from, old.counter, old.digest, reason or "")
        statement, roles = order.emit(), ("site", "release")
        render.print_facts([("order", line) for line in statement.decode().splitlines()[1:]])
    else:
        if bundle is not None:
            update = _statement_of_bundle(bundle)
        elif model is not None:
            update = _statement_of_model(model, product, version, counter, arch)
        else:
            update = UpdateStatement(_load_manifest(given[0]))
        statement, roles = update.emit(), ("release", "site")
        _show_update(update)
    trust = None if root is None else parse_trust_root(load_container(root).statement)
    container = _gather(output, statement, further=add)
    container = container.signed_by(load_private_key(key, passphrase_file))
    if openssf and openssf_key is not None:
        _write_openssf(given[0], openssf_key, output, openssf_passphrase_file)
    if add:
        replace_file(output, container.emit())
    else:
        create_file(output, container.emit(), mode=0o644)
    render.print_facts([("wrote", str(output))])
    _show_state(container, trust, roles)


def _openssf_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.openssf.json")


def _check_outputs(output: Path, inputs: list[Path], *, openssf: bool) -> None:
    """Refuses what could not be written, before a bundle is read and a passphrase is typed."""
    check_output(output, inputs)
    beside = _openssf_path(output)
    if openssf and (beside.exists() or beside.is_symlink()):
        raise UsageError(
            f"file exists already: `{beside}`", hint="choose another name; nothing is overwritten"
        )


def _write_openssf(subject: Path, key: Path, output: Path, passphrase_file: Path | None) -> None:
    path = _openssf_path(output)
    passphrase = ask_passphrase(passphrase_file, what=key.name)
    write_openssf(subject, key, path, passphrase=passphrase)
    render.print_facts([("wrote", str(path))])


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("sign", help=render.reflow_text(_HELP), no_args_is_help=True)(sign)
