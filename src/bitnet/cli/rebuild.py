"""`bitnet rebuild`: makes a release again from its checkpoint and compares every byte."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from bitnet.checkpoint import find_file, open_checkpoint
from bitnet.cli import render
from bitnet.cli.bundle import PROMPT_BYTES_MAX, PROMPT_NAME, build_programs_shown
from bitnet.cli.key_files import digest_facts
from bitnet.cli.selftest_answer import find_answer
from bitnet.errors import BundleError, IntegrityError, UsageError
from bitnet.files import read_bounded
from bitnet.quantize import write_model
from bitnet.release.archive import BundleDigest
from bitnet.release.assemble import Request, digest_checkpoint, prepare, write_release
from bitnet.release.manifest import Manifest
from bitnet.release.provenance import (
    PROVENANCE_BYTES_MAX,
    Choices,
    installed_versions,
    parse_provenance,
)
from bitnet.release.selftest import SELFTEST_S
from bitnet.release.unpack import first_difference, unpack_bundle
from bitnet.seal.executable import build_engine, seal_model
from bitnet.seal.toolchain import Target, host_arch

__all__ = ["register"]

_HELP: Final = """Makes a release again from its checkpoint and compares byte by byte.

Everything is made anew: model.bin from the checkpoint, the engine and the programs from the
sources of this version, the self-test's answer, the bill of materials, the provenance, the bundle.
From the bundle come only the choices of its builder: config.yaml, prompt and seed of the self-test,
product, version and counters, and what provenance.json records of them (processor, kind of
executable and of embedding, programs, training data). A difference is named with file and offset,
and the exit code is 3.

Example:

\b
  bitnet rebuild --check bitnet-v2.1.0.tar.zst --checkpoint models/demo
"""


@dataclass(frozen=True)
class _Original:
    """The bundle that is checked, unpacked."""

    folder: Path
    manifest: Manifest
    digest: BundleDigest
    choices: Choices


def _open_original(bundle: Path, folder: Path) -> _Original:
    folder.mkdir()
    with render.progress_bar("unpacking") as bar:
        manifest, digest = unpack_bundle(bundle, folder, bar or (lambda *_: None))
    for name in ("bitnet-infer", "config.yaml", "selftest.prompt", "provenance.json"):
        if manifest.find(name) is None:
            raise BundleError(f"bundle holds no such file: `{name}`")
    provenance = read_bounded(folder / "provenance.json", "provenance", PROVENANCE_BYTES_MAX)
    choices = parse_provenance(provenance)
    for name, here in installed_versions().items():
        made_with = choices.versions[name]
        if made_with != here:
            raise UsageError(
                f"bundle was made with another version: `{name}`",
                where=(f"made with  {made_with}", f"here       {here}"),
                hint=f"install `{name}=={made_with}` and run it again",
            )
    return _Original(folder, manifest, digest, choices)


def _check_checkpoint(choices: Choices, checkpoint: Path) -> None:
    """Checks a checkpoint against the digests of the provenance, where there are any."""
    found = digest_checkpoint(checkpoint) if choices.checkpoint else {}
    for name in sorted({*choices.checkpoint, *found}):
        here, expected = (
            digests.get(name, "no such file") for digests in (found, choices.checkpoint)
        )
        if here != expected:
            raise IntegrityError(
                f"checkpoint is not the one of the bundle: `{name}`",
                where=(f"found     {here}", f"expected  {expected}"),
                hint=None if name in choices.checkpoint else "take the file out of the folder",
            )


def _make_executable(original: _Original, checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Returns bitnet-infer and model.bin, made anew."""
    choices, tokenizer = original.choices, checkpoint / "tokenizer.json"
    embedding: Literal["int8", "f32"] = "f32" if choices.embedding == "f32" else "int8"
    model = folder / "model.bin"
    with open_checkpoint(checkpoint) as opened, render.progress_bar("quantizing") as bar:
        write_model(
            opened,
            model,
            embedding=embedding,
            tokenizer=find_file(checkpoint, tokenizer.name),
            force=True,
            progress=bar,
        )
    target = Target(original.manifest.architecture, pie=choices.pie)
    if not choices.sealed:
        return build_engine(tokenizer, target), model
    executable = folder / "bitnet-infer"
    seal_model(model, tokenizer, executable, target)
    return executable, model


def _make_again(original: _Original, checkpoint: Path, folder: Path) -> Path:
    """Returns the bundle made anew."""
    manifest, choices = original.manifest, original.choices
    for name in ("made", "staging", "output"):
        (folder / name).mkdir()
    executable, model = _make_executable(original, checkpoint, folder / "made")
    request = Request(
        executable,
        original.folder / "config.yaml",
        None if choices.sealed else model,
        manifest.product,
        manifest.version,
        manifest.counter,
        manifest.minimum_counter,
        manifest.architecture,
        manifest.selftest_seed,
        read_bounded(original.folder / "selftest.prompt", PROMPT_NAME, PROMPT_BYTES_MAX),
        choices.training_data,
        checkpoint if choices.checkpoint else None,
    )
    names = tuple(name for name in choices.programs if name != "bitnet-infer")
    programs = build_programs_shown(manifest.architecture, names)
    draft = prepare(request, programs, folder / "staging")
    foreign = manifest.architecture != host_arch()
    tokenizer = checkpoint / "tokenizer.json" if foreign else None
    answer = find_answer(draft, folder / "staging", tokenizer, timeout_s=SELFTEST_S)
    with render.progress_bar("bundling") as bar:
        return write_release(
            draft,
            answer,
            folder / "staging",
            folder / "output",
            progress=bar or (lambda *_: None),
        )[0]


def _compare(original: _Original, bundle: Path, again: Path, folder: Path) -> None:
    """Checks that both bundles are the same bytes.

    Raises:
        IntegrityError: They differ; the first file that does is named.
    """
    if first_difference(bundle, again) is None:
        return
    folder.mkdir()
    manifest, _ = unpack_bundle(again, folder)
    names = sorted({each.name for each in (*manifest.files, *original.manifest.files)})
    for name in names:
        if manifest.find(name) is None or original.manifest.find(name) is None:
            side = "rebuild" if original.manifest.find(name) is None else "bundle"
            raise IntegrityError(f"rebuild differs: `{name}`", where=f"only in the {side}")
    # What others are computed of comes first: the cause, not its consequences.
    late = ("sbom.cdx.json", "provenance.json")
    for name in sorted(names, key=lambda each: (each in late, each)):
        offset = first_difference(original.folder / name, folder / name)
        if offset is not None:
            raise IntegrityError(
                f"rebuild differs: `{name}`",
                where=(
                    f"offset {offset}",
                    f"bundle   {_digest_of(original.manifest, name)}",
                    f"rebuild  {_digest_of(manifest, name)}",
                ),
            )
    raise IntegrityError(
        f"rebuild differs: `{bundle.name}`",
        where=f"offset {first_difference(bundle, again)}; every file in it is the same",
    )


def _digest_of(manifest: Manifest, name: str) -> str:
    entry = manifest.find(name)
    return "absent" if entry is None else entry.digest


def rebuild(
    check: Annotated[
        Path, typer.Option("--check", metavar="BUNDLE", help="The bundle that is made again.")
    ],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="DIR", help="The checkpoint it was made from.")
    ],
    work: Annotated[
        Path | None,
        typer.Option("--work", metavar="DIR", help="Folder with room for five bundles."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    if work is not None and not work.is_dir():
        raise UsageError(f"folder does not exist: `{work}`", hint="make it first")
    with tempfile.TemporaryDirectory(prefix="bitnet-rebuild-", dir=work) as name:
        folder = Path(name)
        original = _open_original(check, folder / "original")
        _check_checkpoint(original.choices, checkpoint)
        again = _make_again(original, checkpoint, folder)
        _compare(original, check, again, folder / "again")
    if as_json:
        render.print_json({
            "bundle": str(check),
            "reproduced": True,
            "bytes": original.digest.size,
            "sha384": original.digest.digest,
        })  # fmt: skip
        return
    same = f"{check}, {render.format_bytes(original.digest.size)}, every byte the same"
    render.print_facts([("reproduced", same), *digest_facts("sha384", original.digest.digest)])


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("rebuild", help=render.reflow_text(_HELP), no_args_is_help=True)(rebuild)
