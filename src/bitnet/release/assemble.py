"""From an executable, a configuration and a few choices to the files of a release.

Same inputs, same versions of what BYTE_PACKAGES names: same bytes. Nothing here looks at a clock, a
host name or a random number. Files are referred to, not copied; what is made goes into a folder of
the caller.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bitnet.checkpoint.directory import open_file
from bitnet.errors import BundleError, CheckpointError, IntegrityError, UsageError
from bitnet.files import new_file
from bitnet.release.archive import BundleDigest, Progress, bundle_name, write_bundle
from bitnet.release.contents import Contents, read_contents
from bitnet.release.digests import digest_file
from bitnet.release.manifest import FileEntry, Manifest
from bitnet.release.provenance import emit_provenance
from bitnet.seal.sources import PROGRAMS
from bitnet.seal.toolchain import Target, build_program

__all__ = [
    "MODEL_NAME",
    "RELEASE_PROGRAMS",
    "Draft",
    "Request",
    "build_programs",
    "digest_checkpoint",
    "prepare",
    "write_release",
]

# What the operator gets beside bitnet-infer; those that PROGRAMS can build.
RELEASE_PROGRAMS: Final = (
    "bitnet-integrity",
    "bitnet-log",
    "bitnet-rollback",
    "bitnet-update",
    "bitnet-verify",
)
# A model that is not sealed in lies beside the executable, and config.yaml names it so.
MODEL_NAME: Final = "model.bin"
_TOKENIZER_NAME: Final = "tokenizer.json"
_CHECKPOINT_SUFFIXES: Final = (".json", ".safetensors", ".gguf", ".jinja", ".model")
_WORKERS_MAX: Final = 4
_PLACEHOLDER: Final = FileEntry("bitnet-infer", 0o755, 0, "0" * 96)


@dataclass(frozen=True)
class Request:
    """What a release is to be made of.

    Attributes:
        executable: bitnet-infer.
        config: config.yaml, taken as it is.
        model: The model.bin beside the executable, or None where it is sealed in.
        product, version, counter, minimum_counter, arch, selftest_seed: docs/formats/release.md.
        prompt: selftest.prompt.
        training_data: What the model was trained on, as its publisher names it.
        checkpoint: Folder of the checkpoint, whose digests are recorded; or None.
    """

    executable: Path
    config: Path
    model: Path | None
    product: str
    version: str
    counter: int
    minimum_counter: int
    arch: str
    selftest_seed: int
    prompt: bytes
    training_data: tuple[str, ...] = ()
    checkpoint: Path | None = None

    def fields(self) -> Manifest:
        """Returns the metadata as a manifest with a stand-in for its files; checks them.

        Raises:
            UsageError: A value is out of range.
        """
        return Manifest(
            self.product,
            self.version,
            self.counter,
            self.minimum_counter,
            self.arch,
            self.selftest_seed,
            (_PLACEHOLDER,),
        )


@dataclass(frozen=True)
class Draft:
    """A release whose files are known and whose self-test has not been answered yet.

    `checkpoint` are the digests of the checkpoint's files, empty where none is named.
    """

    request: Request
    contents: Contents
    files: dict[str, Path]
    checkpoint: dict[str, str]


def build_programs(
    arch: str,
    *,
    progress: Callable[[str], None] | None = None,
    names: tuple[str, ...] | None = None,
) -> dict[str, Path]:
    """Builds the programs of a release beside bitnet-infer and returns where each is.

    Args:
        arch: Processor that they are for.
        progress: Called with a label before each step that is not already done.
        names: Exactly these; None for all that this version has.

    Raises:
        ToolchainError: The compiler is missing or fails.
        BundleError: A program is not one of this version's.
    """
    known = [name for name in RELEASE_PROGRAMS if name in PROGRAMS]
    wanted = known if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise BundleError(f"program is not one of this version: `{name}`")
    return {name: build_program(name, Target(arch), progress=progress) for name in wanted}


def prepare(
    request: Request,
    programs: dict[str, Path],
    staging: Path,
    *,
    progress: Progress | None = None,
) -> Draft:
    """Checks the inputs of a release and lays out its files, all but what is computed of them.

    Args:
        request: What the release is to be made of.
        programs: The operator's programs by name.
        staging: A folder for what is made.
        progress: Called while every byte of the model is checked.

    Raises:
        UsageError: A value of the request is out of range, or the architecture is another.
        IntegrityError: The checkpoint's tokenizer is not the one that the model was made with.
        ToolkitError: Executable, model or configuration are not usable.
    """
    request.fields()
    contents = read_contents(request.executable, request.model, progress=progress)
    if contents.arch != request.arch:
        raise UsageError(
            f"executable is for another architecture: `{request.executable}`",
            where=(f"executable  {contents.arch}", f"asked for   {request.arch}"),
        )
    checkpoint = {} if request.checkpoint is None else digest_checkpoint(request.checkpoint)
    if request.checkpoint is not None:
        _check_tokenizer(request.checkpoint, checkpoint, contents)
    prompt = staging / "selftest.prompt"
    prompt.write_bytes(request.prompt)
    files = {
        "bitnet-infer": request.executable,
        "config.yaml": request.config,
        "selftest.prompt": prompt,
        **programs,
    }
    if request.model is not None:
        files[MODEL_NAME] = request.model
    return Draft(request, contents, files, checkpoint)


def _check_tokenizer(folder: Path, checkpoint: dict[str, str], contents: Contents) -> None:
    """Compares what can be compared without making the model again: the digest in its header."""
    expected = contents.model.tokenizer_sha384
    found = checkpoint.get(_TOKENIZER_NAME, "no such file")
    if expected is not None and found != expected:
        raise IntegrityError(
            f"checkpoint is not the one that the model was made from: `{folder}`",
            where=(f"{_TOKENIZER_NAME}  {found}", f"model's own     {expected}"),
            hint="pass the checkpoint that was given to `bitnet.quantize`",
        )


def digest_checkpoint(checkpoint: Path) -> dict[str, str]:
    """Returns name → SHA-384 of the files of a checkpoint that can enter a release.

    Raises:
        BundleError: The folder cannot be read.
        CheckpointError: A file is not regular, cannot be read, or lies outside of the folder.
    """
    try:
        names = sorted(path.name for path in checkpoint.iterdir() if not path.is_dir())
    except OSError as error:
        raise BundleError(
            f"checkpoint cannot be read: `{checkpoint}`", where=error.strerror or str(error)
        ) from None
    return {
        name: _digest_inside(checkpoint, name)
        for name in names
        if Path(name).suffix in _CHECKPOINT_SUFFIXES
    }


def _digest_inside(folder: Path, name: str) -> str:
    try:
        with os.fdopen(open_file(folder, name), "rb") as file:
            return hashlib.file_digest(file, "sha384").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"cannot read `{name}`", where=(f"file {folder / name}", error.strerror or str(error))
        ) from None


def write_release(
    draft: Draft, answer: bytes, staging: Path, output: Path, *, progress: Progress
) -> tuple[Path, Manifest, BundleDigest]:
    """Writes the bundle of a release and returns it, its manifest and its digest.

    Args:
        draft: From `prepare`.
        answer: What the executable answers to the self-test's prompt.
        staging: The folder given to `prepare`.
        output: Folder of the bundle; an earlier one of that name is replaced.
        progress: Called with file, bytes done and bytes in all.

    Raises:
        ToolkitError: A file changed meanwhile or cannot be read; the output cannot be written.
    """
    from bitnet.release.sbom import emit_sbom  # the library takes a tenth of a second to load

    request, files = draft.request, dict(draft.files)

    def add(name: str, data: bytes) -> None:
        (staging / name).write_bytes(data)
        files[name] = staging / name

    add("selftest.answer", answer)
    fields, data = request.fields(), list(request.training_data)
    entries = [_entry(name, path, progress) for name, path in sorted(files.items())]
    add("sbom.cdx.json", emit_sbom(request.product, request.version, draft.contents, entries, data))
    entries.append(_entry("sbom.cdx.json", files["sbom.cdx.json"], progress))
    text = emit_provenance(
        fields, entries, draft.contents, training_data=data, checkpoint=draft.checkpoint
    )
    add("provenance.json", text)
    entries.append(_entry("provenance.json", files["provenance.json"], progress))
    manifest = replace(fields, files=tuple(sorted(entries, key=lambda entry: entry.name)))
    path = output / bundle_name(manifest)
    workers = min(_WORKERS_MAX, len(os.sched_getaffinity(0)))
    with new_file(path, mode=0o644) as new:
        digest = write_bundle(manifest, files, new.file, workers=workers, progress=progress)
    return path, manifest, digest


def _entry(name: str, path: Path, progress: Progress) -> FileEntry:
    program = name.startswith("bitnet-")
    found = digest_file(path, progress)
    return FileEntry(name, 0o755 if program else 0o644, found.size, found.digest)
