"""What a release is made of, read from its executable: architecture, model, tokenizer, engine."""

import hashlib
import mmap
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from bitnet.checkpoint import ModelSpec
from bitnet.errors import BundleError
from bitnet.quantize import open_model
from bitnet.quantize.layout import KIND_F32
from bitnet.quantize.reader import ModelFile
from bitnet.release.archive import BundleDigest
from bitnet.release.digests import digest_file
from bitnet.seal.elf import ET_DYN, Elf, read_elf
from bitnet.seal.elf_checks import check_executable
from bitnet.seal.embed import MODEL_SECTION
from bitnet.seal.sources import engine_root

__all__ = [
    "Contents",
    "Model",
    "copy_payload",
    "engine_digest",
    "package_version",
    "read_contents",
]

_SOURCE_SUFFIXES: Final = (".cc", ".h", ".zig", ".def", ".json")
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Model:
    """The model of a release, sealed in or beside the executable."""

    content: BundleDigest
    root: str
    tokenizer_sha384: str | None
    embedding: str
    spec: ModelSpec


@dataclass(frozen=True)
class Contents:
    """What an executable is made of.

    Attributes:
        arch: Processor it is for.
        pie: Whether it is position-independent.
        sealed: Whether the model is inside.
        model: The model that it runs.
    """

    arch: str
    pie: bool
    sealed: bool
    model: Model


def read_contents(executable: Path, model: Path | None) -> Contents:
    """Returns what an executable is made of.

    Args:
        executable: bitnet-infer.
        model: The model.bin beside it; None where it is sealed in.

    Raises:
        FormatError, IntegrityError: Executable or model are not whole.
        BundleError: The model is missing, or there are two.
    """
    elf = read_elf(executable)
    section = elf.find_section(MODEL_SECTION)
    if (section is None) == (model is None):
        raise BundleError(
            f"executable carries no model: `{executable}`"
            if section is None
            else f"executable carries a model already: `{executable}`",
            hint="seal one with `bitnet seal`, or pass `--model` with the model.bin beside it",
        )
    check_executable(executable, sealed=section is not None)
    pie = elf.header.type == ET_DYN
    if section is None and model is not None:
        with open_model(model) as opened:
            described = _describe(opened, digest_file(model))
        return Contents(elf.arch, pie, False, described)
    with executable.open("rb") as file, _map_payload(file.fileno(), elf) as data:
        opened = ModelFile(executable, data)
        digest = hashlib.sha384(data).hexdigest()
        described = _describe(opened, BundleDigest(digest, len(data)))
        opened.close()
    return Contents(elf.arch, pie, True, described)


def _map_payload(descriptor: int, elf: Elf) -> mmap.mmap:
    section = elf.find_section(MODEL_SECTION)
    assert section is not None
    return mmap.mmap(descriptor, section.size, access=mmap.ACCESS_READ, offset=section.offset)


def _describe(opened: ModelFile, content: BundleDigest) -> Model:
    header = opened.header
    embedding = next(place for place in header.layout.tensors if place.role == "embedding")
    tokenizer = header.tokenizer_sha384
    return Model(
        content,
        opened.root.hex(),
        tokenizer.hex() if tokenizer is not None else None,
        "f32" if embedding.kind == KIND_F32 else "int8",
        header.spec,
    )


def copy_payload(executable: Path, output: Path) -> None:
    """Writes the model.bin that an executable carries to a file of its own."""
    elf = read_elf(executable)
    with (
        executable.open("rb") as file,
        _map_payload(file.fileno(), elf) as data,
        output.open("wb") as out,
    ):
        for at in range(0, len(data), _CHUNK_BYTES):
            out.write(data[at : at + _CHUNK_BYTES])


def engine_digest() -> str:
    """Returns SHA-384 over a `sha384sum` listing of the engine's sources, sorted by path."""
    root = engine_root()
    paths = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix in _SOURCE_SUFFIXES and path.is_file()
    )
    lines = [
        f"{hashlib.sha384((root / path).read_bytes()).hexdigest()}  {path}\n" for path in paths
    ]
    return hashlib.sha384("".join(lines).encode()).hexdigest()


def package_version() -> str:
    """Returns the version of this package."""
    return metadata.version("bitnet-airgap")
