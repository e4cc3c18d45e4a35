"""What is compiled into each program of the engine: folders, main files, flags of single files.

The sources are found by walking the folders in sorted order, so a new file needs no list; only
`sources.json` of a folder names files, because an instruction-set file belongs to one architecture
and has flags of its own.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bitnet
from bitnet.errors import ToolchainError

__all__ = [
    "ARCHITECTURES",
    "PROGRAMS",
    "Program",
    "Source",
    "build_root",
    "engine_root",
    "list_sources",
    "source_digest",
]

ARCHITECTURES: Final = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Program:
    """One linked result: a static executable, or the shared library for Python.

    Attributes:
        name: File name of the result.
        main: The file with the entry points, relative to the engine's root.
        parts: Folders (all their sources) and single files that it is made of; what it does not
            reach, the linker drops.
        tokenizer: Whether `main` includes the compiled tokenizer, `tokenizer.inc`.
    """

    name: str
    main: str
    parts: tuple[str, ...]
    tokenizer: bool = False


_ENGINE_FOLDERS: Final = (
    "base",
    "crypto",
    "format",
    "kernels",
    "model",
    # Of the doors to the kernel only those that running a model needs.
    "platform/fs_linux.cc",
    "platform/lockdown_linux.cc",
    "platform/os_linux.cc",
    "runtime",
    "sampler",
    "tokenizer",
)

# Programs that install and verify know nothing of models.
_RELEASE_FOLDERS: Final = ("base", "crypto", "platform", "release")
_TOLD: Final = ("programs/arguments.cc", "programs/report.cc")

# A further program is one more row.
PROGRAMS: Final = {
    "bitnet-infer": Program(
        "bitnet-infer",
        "programs/infer.cc",
        (*_ENGINE_FOLDERS, "programs/bench.cc", "programs/hardening.cc", *_TOLD),
        tokenizer=True,
    ),
    "bitnet-update": Program(
        "bitnet-update",
        "programs/update.cc",
        (*_RELEASE_FOLDERS, *_TOLD, "programs/signers.cc"),
    ),
    "bitnet-rollback": Program(
        "bitnet-rollback", "programs/rollback.cc", (*_RELEASE_FOLDERS, *_TOLD)
    ),
    "bitnet-verify": Program(
        "bitnet-verify",
        "programs/verify.cc",
        (*_RELEASE_FOLDERS, *_TOLD, "programs/signers.cc"),
    ),
    "bitnet-integrity": Program(
        "bitnet-integrity",
        "programs/integrity.cc",
        (
            *("base", "crypto", "platform", "format/executable.cc", "format/leaves.cc"),
            *("format/model_file.cc", "programs/regions.cc", *_TOLD),
        ),
    ),
    "bitnet-log": Program(
        "bitnet-log",
        "programs/log.cc",
        ("base", "crypto/crypto.zig", "platform", "runtime/log_ring.cc", *_TOLD),
    ),
    "library": Program(
        "libbitnet.so", "programs/library.cc", (*_ENGINE_FOLDERS, "programs/report.cc")
    ),
}


@dataclass(frozen=True)
class Source:
    """One file to compile: its path relative to the engine's root, and flags of its own."""

    path: str
    flags: tuple[str, ...] = ()


def engine_root() -> Path:
    """Returns the folder of the engine's sources: inside the wheel, or of the checkout.

    Raises:
        ToolchainError: Neither exists.
    """
    package = Path(bitnet.__file__).resolve().parent
    for root in (package / "_engine", package.parent.parent / "engine"):
        if (root / "base" / "status.def").is_file():
            return root
    raise ToolchainError(
        "sources of the engine are missing: `bitnet/_engine`",
        hint="install the package again, or run from a checkout",
    )


def build_root() -> Path:
    """Returns the folder for objects: `build/` of a checkout, else the user's cache folder."""
    engine = engine_root()
    if engine.name == "engine":
        return engine.parent / "build"
    return Path.home() / ".cache" / "bitnet-airgap"


def list_sources(engine: Path, program: Program, arch: str) -> list[Source]:
    """Returns the sources of a program for one architecture, in the order of linking.

    Args:
        engine: Root of the engine's sources.
        program: What is built.
        arch: One of ARCHITECTURES. Files that a folder's `sources.json` lists for another
            architecture only are left out.

    Raises:
        ToolchainError: The main file or a listed file is missing, or a list is malformed.
    """
    sources = []
    listed = []
    for part in program.parts:
        flags = _read_flags(engine, part)
        wanted = flags.get(arch, {})
        foreign = {name for files in flags.values() for name in files} - wanted.keys()
        listed += [f"{part}/{name}" for name in wanted]
        for path in _list_paths(engine, part):
            name = path.rpartition("/")[2]
            if name not in foreign:
                sources.append(Source(path, wanted.get(name, ())))
    for path in (program.main, *(source.path for source in sources), *listed):
        if not (engine / path).is_file():
            raise ToolchainError(f"source of the engine is missing: `{path}`")
    return [Source(program.main), *sources]


def _list_paths(engine: Path, part: str) -> Iterator[str]:
    """Yields the paths of a folder's sources, whatever the architecture, or the one file."""
    if not (engine / part).is_dir():
        yield part
        return
    for file in sorted((engine / part).iterdir()):
        if file.suffix in (".cc", ".zig") and not file.name.endswith("_test.cc"):
            yield f"{part}/{file.name}"


def _read_flags(engine: Path, folder: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Returns `{arch: {file name: flags}}` of a folder's `sources.json`; empty without one."""
    path = engine / folder / "sources.json"
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {
            arch: {str(name): tuple(map(str, flags)) for name, flags in files.items()}
            for arch, files in table.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise ToolchainError(
            f"list of files is malformed: `{folder}/sources.json`", where=str(error)
        ) from error


_INCLUDE: Final = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)


def source_digest(root: Path, path: str, include_directories: tuple[Path, ...]) -> str:
    """Returns a digest over a source and everything of ours that it includes, directly or not.

    Names enter relative to the folder in which they were found, so that two checkouts agree.
    """
    digest = hashlib.sha256()
    for name, data in _closure(root, path, (root, *include_directories)):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _closure(root: Path, path: str, directories: tuple[Path, ...]) -> Iterator[tuple[str, bytes]]:
    """Yields name and bytes of a file and of all quoted includes that exist, each once."""
    waiting = [(path, root / path)]
    seen: set[Path] = set()
    while waiting:
        name, file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        data = file.read_bytes()
        yield name, data
        for match in _INCLUDE.findall(data):
            included = match.decode("utf-8", "replace")
            found = (folder / included for folder in (file.parent, *directories))
            target = next((each for each in found if each.is_file()), None)
            if target is not None:
                waiting.append((included, target.resolve()))
