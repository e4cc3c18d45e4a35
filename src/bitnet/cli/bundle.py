"""`bitnet bundle`: a sealed executable to a release that can travel."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from bitnet.cli import render
from bitnet.cli.key_files import digest_facts, load_container
from bitnet.cli.selftest_answer import find_answer
from bitnet.errors import BundleError, SignatureError, UsageError
from bitnet.files import check_output, open_regular, read_bounded, replace_file
from bitnet.release.archive import BundleDigest, Progress, check_bundle
from bitnet.release.assemble import Request, build_programs, prepare, write_release
from bitnet.release.digests import digest_file
from bitnet.release.manifest import Manifest
from bitnet.release.parts import parse_size, plan_parts, write_parts
from bitnet.release.selftest import DEFAULT_PROMPT, SELFTEST_S
from bitnet.release.sheet import SheetPart, emit_sheet
from bitnet.release.statements import parse_update_statement
from bitnet.release.trust import accept_update, check_threshold, parse_trust_root
from bitnet.seal.toolchain import host_arch

__all__ = ["PROMPT_BYTES_MAX", "PROMPT_NAME", "build_programs_shown", "register"]

_HELP: Final = """Makes a release of a sealed executable: one file, the same bytes from any host.

The bundle holds the executable, its configuration, the programs for the gap, a known-answer
self-test that the executable has really answered, a bill of materials, the provenance, and
MANIFEST. It is then signed with `bitnet sign`. With `--existing` nothing is made: a bundle is
checked, split for write-once media, or described on a sheet of paper that travels beside it.

Examples:

\b
  bitnet bundle --executable bitnet-infer --config config.yaml \\
      --product bitnet --version 2.1.0 --counter 7 --minimum-counter 3 --output release
  bitnet bundle --existing release/bitnet-v2.1.0.tar.zst --split 4GiB \\
      --sheet release/transfer.html --signatures release/update.sig --root trust.root \\
      --output release
"""

PROMPT_BYTES_MAX: Final = 1 << 20
PROMPT_NAME: Final = "prompt of the self-test"
_HOST_ARCH: Final = host_arch()

_Executable = Annotated[
    Path | None, typer.Option("--executable", metavar="FILE", help="bitnet-infer.")
]
_Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Its config.yaml, taken as it is.")
]
_Model = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="model.bin beside it, of `--no-model`."),
]
_Existing = Annotated[
    Path | None, typer.Option("--existing", metavar="FILE", help="A bundle made before.")
]
_Output = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="Existing folder for what is written.")
]
_Product = Annotated[str, typer.Option("--product", metavar="NAME", help="What is installed.")]
_Version = Annotated[
    str | None, typer.Option("--version", metavar="X.Y.Z", help="Version, for people.")
]
_Counter = Annotated[
    int | None,
    typer.Option("--counter", metavar="N", help="Higher with every release, from 1 on."),
]
_Minimum = Annotated[
    int,
    typer.Option("--minimum-counter", metavar="N", help="Floor that installing this release sets."),
]
_Arch = Annotated[
    str, typer.Option("--arch", metavar="x86_64|aarch64", help="Processor of the executable.")
]
_Seed = Annotated[int, typer.Option("--selftest-seed", metavar="N", help="Seed of the self-test.")]
_Prompt = Annotated[
    Path | None,
    typer.Option("--selftest-prompt", metavar="FILE", help="A question of your own for it."),
]
_Tokenizer = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        help="Compute the self-test's answer here, for an executable that this host cannot run.",
    ),
]
_Timeout = Annotated[
    float, typer.Option("--selftest-timeout", metavar="S", help="Seconds that it may take.")
]
_Data = Annotated[
    list[str] | None,
    typer.Option("--training-data", metavar="NAME", help="What the model was trained on; repeat."),
]
_Checkpoint = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="DIR", help="Record the digests of these sources."),
]
_Split = Annotated[
    str | None, typer.Option("--split", metavar="SIZE", help="Also in parts, such as 4GiB.")
]
_Sheet = Annotated[
    Path | None, typer.Option("--sheet", metavar="HTML", help="Also a transfer sheet to print.")
]
_Signatures = Annotated[
    Path | None, typer.Option("--signatures", metavar="FILE", help="update.sig, for the sheet.")
]
_Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="FILE", help="A trust.root: verify them, name who signed."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print what was written as one JSON object.")]


@contextmanager
def _steps(what: str) -> Iterator[Callable[[str], None]]:
    """Gives a function that shows the step under way on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _label: None
        return
    with Console(stderr=True).status(what) as status:
        yield lambda label: status.update(f"{what}: {label}")


def build_programs_shown(arch: str, names: tuple[str, ...] | None = None) -> dict[str, Path]:
    """Returns `build_programs` with its steps shown on a terminal."""
    with _steps("building the programs") as step:
        return build_programs(arch, progress=step, names=names)


def _make(
    request: Request, tokenizer: Path | None, timeout_s: float, output: Path
) -> tuple[Path, Manifest, BundleDigest]:
    request.fields()
    programs = build_programs_shown(request.arch)
    with tempfile.TemporaryDirectory(prefix="bitnet-bundle-", dir=output) as folder:
        staging = Path(folder)
        with render.progress_bar("checking") as bar:
            draft = prepare(request, programs, staging, progress=bar)
        with _steps("running the self-test"):
            answer = find_answer(draft, staging, tokenizer, timeout_s)
        with render.progress_bar("bundling") as bar:
            return write_release(draft, answer, staging, output, progress=bar or (lambda *_: None))


def _check_existing(path: Path) -> tuple[Path, Manifest, BundleDigest]:
    try:
        total = path.stat().st_size
        with open_regular(path) as file, render.progress_bar("checking") as bar:
            progress: Progress = bar or (lambda *_: None)
            manifest, digest = check_bundle(file, path.name, total, progress=progress)
    except OSError as error:
        raise BundleError(
            f"bundle cannot be read: `{path}`", where=error.strerror or str(error)
        ) from None
    return path, manifest, digest


def _list_signers(
    path: Path | None, root: Path | None, manifest: Manifest, digest: BundleDigest
) -> tuple[list[str], int | None]:
    """Returns who has signed an update.sig that is for this bundle, and the version of the root.

    Without a root, the beginnings of the key ids in the file, which anybody can write there.
    """
    if path is None:
        return [], None
    container = load_container(path)
    statement = parse_update_statement(container.statement)
    if statement.manifest != manifest or statement.bundle_digest != digest.digest:
        raise SignatureError(f"signature file is for another bundle: `{path}`")
    if root is None:
        return [f"key {each.key_id[:16]}" for each in container.signatures], None
    root_container = load_container(root, "trust root")
    trust = parse_trust_root(root_container.statement)
    check_threshold(trust, "root", root_container)
    _, by_role = accept_update(trust, container)
    signers = {key.key_id: key for keys in by_role.values() for key in keys}
    return [f"{key.name} ({key.custodian})" for key in signers.values()], trust.version


def _split(path: Path, digest: BundleDigest, size: str | None, output: Path) -> list[SheetPart]:
    if size is None:
        return []
    plan = plan_parts(digest.size, parse_size(size))
    with render.progress_bar("splitting") as bar:
        written = write_parts(path, digest, plan, output, bar or (lambda *_: None))
    return [SheetPart(part.name, digest_file(part).digest) for part in written]


def _request(executable: Path | None, config: Path | None, **rest: Any) -> Request:
    """Returns the request that the command line makes; what is needed is checked."""
    needed = {
        "--executable": executable,
        "--config": config,
        "--version": rest["version"],
        "--counter": rest["counter"],
    }
    absent = [f"`{name}`" for name, value in needed.items() if value is None]
    if executable is None or config is None or absent:
        raise UsageError(
            f"bundle is not described: {', '.join(absent)} missing",
            hint="pass them, or `--existing` with a bundle made before",
        )
    if rest["counter"] == 0:
        raise UsageError("counter is out of range: `0`", hint="no host takes 0: begin with 1")
    prompt = rest.pop("prompt")
    text = DEFAULT_PROMPT
    if prompt is not None:
        text = read_bounded(prompt, PROMPT_NAME, PROMPT_BYTES_MAX)
    return Request(executable, config, prompt=text, **rest)


def bundle(
    output: _Output,
    executable: _Executable = None,
    config: _Config = None,
    model: _Model = None,
    product: _Product = "bitnet",
    version: _Version = None,
    counter: _Counter = None,
    minimum_counter: _Minimum = 0,
    arch: _Arch = _HOST_ARCH,
    selftest_seed: _Seed = 42,
    selftest_prompt: _Prompt = None,
    selftest_timeout: _Timeout = SELFTEST_S,
    tokenizer: _Tokenizer = None,
    training_data: _Data = None,
    checkpoint: _Checkpoint = None,
    existing: _Existing = None,
    split: _Split = None,
    sheet: _Sheet = None,
    signatures: _Signatures = None,
    root: _Root = None,
    as_json: _Json = False,
) -> None:
    if not output.is_dir():
        raise UsageError(f"folder does not exist: `{output}`", hint="make it first")
    if split is not None:
        parse_size(split)
    if root is not None and signatures is None:
        raise UsageError("`--root` verifies nothing without `--signatures`")
    given = (executable, config, model, selftest_prompt, tokenizer, existing, signatures, root)
    inputs = [path for path in given if path is not None]
    for written in (sheet, output / "MANIFEST" if existing is None else None):
        if written is not None:
            check_output(written, inputs)
    if existing is not None:
        if executable is not None:
            raise UsageError("`--existing` and `--executable` exclude each other")
        made = _check_existing(existing)
    else:
        request = _request(
            executable,
            config,
            model=model,
            product=product,
            version=version,
            counter=counter,
            minimum_counter=minimum_counter,
            arch=arch,
            selftest_seed=selftest_seed,
            prompt=selftest_prompt,
            training_data=tuple(training_data or ()),
            checkpoint=checkpoint,
        )
        made = _make(request, tokenizer, selftest_timeout, output)
        replace_file(output / "MANIFEST", made[1].emit())
    path, manifest, digest = made
    signers, root_version = _list_signers(signatures, root, manifest, digest)
    parts = _split(path, digest, split, output)
    if sheet is not None:
        check_output(sheet, (path, output / "MANIFEST", *(output / part.name for part in parts)))
        page = emit_sheet(manifest, digest, signers=signers, root_version=root_version, parts=parts)
        replace_file(sheet, page)
    _show(made, parts, sheet, as_json=as_json)


def _show(
    made: tuple[Path, Manifest, BundleDigest],
    parts: list[SheetPart],
    sheet: Path | None,
    *,
    as_json: bool,
) -> None:
    path, manifest, digest = made
    if as_json:
        render.print_json({
            "bundle": str(path),
            "bytes": digest.size,
            "sha384": digest.digest,
            "manifest_sha384": manifest.digest,
            "counter": manifest.counter,
            "files": {each.name: each.digest for each in manifest.files},
            "parts": [part.name for part in parts],
            "sheet": str(sheet) if sheet is not None else None,
        })  # fmt: skip
        return
    facts = [
        ("bundle", f"{path}, {render.format_bytes(digest.size)}"),
        ("files", ", ".join(entry.name for entry in manifest.files)),
        *((("parts", f"{len(parts)}, {parts[0].name} to the last"),) if parts else ()),
        *((("sheet", str(sheet)),) if sheet is not None else ()),
    ]
    render.print_facts(
        facts + digest_facts("manifest", manifest.digest) + digest_facts("sha384", digest.digest)
    )


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("bundle", help=render.reflow_text(_HELP), no_args_is_help=True)(bundle)
