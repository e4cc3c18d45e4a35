"""What a release is made of, read from its executable: architecture, model, tokenizer, engine."""

import hashlib
import mmap
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from bitnet.checkpoint import ModelSpec
from bitnet.errors import BundleError
from bitnet.quantize import Progress, open_model
from bitnet.quantize.layout import KIND_F32
from bitnet.quantize.reader import ModelFile
from bitnet.release.archive import BundleDigest
from bitnet.release.digests import digest_file
from bitnet.seal.elf import ET_DYN, Elf, read_elf
from bitnet.seal.elf_checks import check_executable
from bitnet.seal.embed import MODEL_SECTION
from bitnet.seal.sources import engine_root

__all__ = [
    "COMPILER_WHEELS",
    "MUSL_VERSION",
    "Contents",
    "Model",
    "copy_payload",
    "engine_digest",
    "package_version",
    "read_contents",
]

MUSL_VERSION: Final = "1.2.5"

# SHA-256 of the compiler's wheels, one for each platform, as requirements/runtime.txt pins them.
COMPILER_WHEELS: Final = (
    "09953b6af7f64168b915180a42774f520f92d86ef6331b28e33915c7e1f0bb23",
    "27a8da5f8eaa0e76ebbc7c2594130ed4646c1101ada2ce0aa86fe580c74154b9",
    "4e0b4b9c02b8d0d220e9948010f860b62ff11d96abb39762eca5fa2ef3f7bc97",
    "69c3dfc3aff6a297ec4017aa904782c0e450eb988982d7f675d83edce27526fb",
    "7ec229ead4a08f3bc537ed33fa8c0f811739b81a0d05afbea89db30afb4df1cc",
    "87f24e5cdca55f5d47c1e20570eebb61a53957fafe4c35c69740e13affe407ba",
    "ae28f1f1150b95c8b1bb5e185d18e6c542877dc480e2476ccc81dac41f191b71",
    "b7c5f02fccd40f89b999ee16a1f5ddced56e6182370f8affe494bcf8a28cf07e",
    "d0549d5db63961ad9ed83ef628a45e3309542410dbcb6010116f4f2a3274d966",
    "d3bf27478d4593f2df7daf5c59b616a543b8f9e2cc9235bef84d8e54862a4334",
    "d65ae4223b0c351cb3b4596262b8d9773acc9ca94ef8ea9b5fe3ddfa07dd204f",
    "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
)

_SOURCE_SUFFIXES: Final = (".cc", ".h", ".inc", ".zig", ".def", ".json")
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


def read_contents(
    executable: Path, model: Path | None, *, progress: Progress | None = None
) -> Contents:
    """Returns what an executable is made of; every byte of its model has been checked.

    Args:
        executable: bitnet-infer.
        model: The model.bin beside it; None where it is sealed in.
        progress: Called as by `ModelFile.verify`.

    Raises:
        FormatError, IntegrityError: Executable or model are not whole, or not as their formats say.
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
            opened.verify(progress)
            described = _describe(opened, digest_file(model))
        return Contents(elf.arch, pie, False, described)
    with executable.open("rb") as file:
        data = _map_payload(file.fileno(), elf)
    with ModelFile(executable, data) as opened:
        opened.verify(progress)
        digest = hashlib.sha384(data).hexdigest()
        described = _describe(opened, BundleDigest(digest, len(data)))
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
