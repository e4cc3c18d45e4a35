"""The pinned compiler: a plan of commands as data, and their execution.

`plan` says which commands turn the engine's sources into a program, without running any; each
command names its output after a digest of everything that goes into it, so an output that exists
is right and a second build does nothing. `run` executes what is missing.

The result depends on the sources, the flags and the compiler alone: relative paths, a fixed order,
an environment that is written here, and no build id.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitnet.errors import ToolchainError
from bitnet.seal.sources import (
    ARCHITECTURES,
    PROGRAMS,
    Program,
    Source,
    build_root,
    engine_root,
    list_sources,
    source_digest,
)

__all__ = [
    "COMPILER_VERSION",
    "OUTPUT",
    "Command",
    "Target",
    "build_library",
    "build_program",
    "find_compiler",
    "host_arch",
    "make_folder",
    "plan",
    "run",
]

COMPILER_VERSION: Final = "0.17.1"

# Rooms that run once, or wait for the system: compiled for size.
_COLD: Final = ("format/", "platform/", "programs/", "release/")

# Included before everything else in sanitizer builds: the library checks every index of a span. The
# compiler's own -D comes behind ours, so that only a file can say so.
_CHECKED: Final = Path(__file__).with_name("checked.h")

# Stands in a command line for the name of its output, which `run` fills in.
OUTPUT: Final = "@output@"

# Floating point: no contraction, so that a fused multiply-add stands only where it is written.
# -fno-sanitize=all: the driver would otherwise add traps of its own to unoptimised builds.
_COMPILE: Final = (
    "-std=c++20",
    "-fno-exceptions",
    "-fno-rtti",
    # Nothing unwinds a stack: no exceptions, and no dumps for a debugger.
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-ffp-contract=off",
    "-fstack-protector-strong",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Werror",
    "-g0",
)
# ReleaseSafe keeps the bounds checks of the library's decoders, at the speed of ReleaseFast. Stack
# probes would need a function of the compiler's run time, and no frame here is near a stack's end.
_COMPILE_ZIG: Final = (
    "-fPIC",
    "-fstrip",
    "-fno-stack-check",
    "-fno-unwind-tables",
    "-ffunction-sections",
    "-fdata-sections",
)
# Stacks of threads are 128 KiB, the least that the C library gives; it takes the size from the
# stack header. They are locked in memory whole. No frame of what threads run exceeds 14 KB.
_LINK: Final = (
    "-s",
    "-Wl,-z,relro,-z,now",
    "-Wl,-z,noexecstack",
    "-Wl,-z,stack-size=131072",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
)
# Kernels of AArch64 have pages of 4, 16 or 64 KiB; relocated pointers can be made read-only only
# where they end with a page of the largest.
_LINK_PAGES: Final[dict[str, tuple[str, ...]]] = {
    "x86_64": (),
    "aarch64": ("-Wl,-z,common-page-size=65536",),
}


@dataclass(frozen=True)
class Target:
    """What a program is built for.

    Attributes:
        arch: One of ARCHITECTURES.
        pie: Position-independent static executable; False gives one at a fixed address.
        library: A shared library for the glibc of any current system, instead of an executable.
        sanitize: Address and undefined-behaviour checks, for tests on this host: compiled by the
            pinned compiler, linked with the run-time libraries of the system's g++.
        coverage: Calls at every edge and comparison, for a fuzzer; only with `sanitize`.
    """

    arch: str
    pie: bool = True
    library: bool = False
    sanitize: bool = False
    coverage: bool = False

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise ToolchainError(
                f"architecture is not supported: `{self.arch}`",
                hint=f"use one of {', '.join(ARCHITECTURES)}",
            )
        if self.sanitize and self.arch != host_arch():
            raise ToolchainError(f"sanitizer builds run on this host only: `{self.arch}`")

    @property
    def triple(self) -> str:
        """The compiler's name of the target."""
        if self.library or self.sanitize:
            return f"{self.arch}-linux-gnu.2.28"
        return f"{self.arch}-linux-musl"


@dataclass(frozen=True)
class Command:
    """One call of the compiler: its argument list with OUTPUT in it, and the file it writes."""

    label: str
    argv: tuple[str, ...]
    output: Path


def host_arch() -> str:
    """Returns the architecture of this machine, in the words of ARCHITECTURES."""
    machine = platform.machine()
    return {"arm64": "aarch64", "AMD64": "x86_64"}.get(machine, machine)


def find_compiler() -> Path:
    """Returns the path of the pinned compiler.

    Raises:
        ToolchainError: It is not installed, or in another version.
    """
    hint = f"install it with `python -m pip install ziglang=={COMPILER_VERSION}`"
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise ToolchainError("compiler is not installed: `ziglang`", hint=hint)
    version = importlib.metadata.version("ziglang")
    if version != COMPILER_VERSION:
        raise ToolchainError(
            f"compiler has another version than the pinned one: `{version}`",
            where=f"pinned    {COMPILER_VERSION}",
            hint=hint,
        )
    return Path(spec.origin).parent / "zig"


def plan(
    program: Program,
    target: Target,
    *,
    engine: Path,
    build: Path,
    compiler: str,
    include: tuple[Path, ...] = (),
) -> list[Command]:
    """Returns the commands that build a program: one per source, then one that links.

    Args:
        program: A row of PROGRAMS, or one of the same form.
        target: What it is built for.
        engine: Root of the engine's sources; the commands run there.
        build: Root of the outputs.
        compiler: Path of the compiler; it does not enter the digests, its version does.
        include: Further folders for quoted includes, such as that of `tokenizer.inc`.

    Raises:
        ToolchainError: A source is missing.
    """
    objects = build / target.arch / "obj"
    commands = []
    for source in list_sources(engine, program, target.arch):
        arguments = _compile_arguments(source, target)
        checked = [_CHECKED] if target.sanitize else []
        digest = _digest(
            arguments,
            source_digest(engine, source.path, include),
            *(hashlib.sha256(path.read_bytes()).hexdigest() for path in checked),
        )
        folders = [f"-include{path}" for path in checked]
        folders += [f"-I{path}" for path in include]
        folders += [f"-ffile-prefix-map={path}=." for path in include]
        commands.append(
            Command(
                f"compile {source.path}",
                (compiler, *arguments, *([] if source.path.endswith(".zig") else folders)),
                objects / f"{Path(source.path).stem}-{digest}.o",
            )
        )
    outputs = [command.output for command in commands]
    arguments = _link_arguments(target)
    digest = _digest(arguments, *(path.name for path in outputs))
    linker = "g++" if target.sanitize else compiler
    commands.append(
        Command(
            f"link {program.name}",
            (linker, *arguments, *map(str, outputs), "-o", OUTPUT),
            build / target.arch / "bin" / f"{program.name}-{digest}",
        )
    )
    return commands


def _compile_arguments(source: Source, target: Target) -> tuple[str, ...]:
    """Returns what follows the compiler's path, without folders that depend on the machine."""
    if source.path.endswith(".zig"):
        options = ("-O", "ReleaseSafe", *_COMPILE_ZIG, *(("-ffuzz",) if target.coverage else ()))
        output = f"-femit-bin={OUTPUT}"
        return ("build-obj", "-target", target.triple, *options, source.path, output)
    if target.sanitize:
        # The driver leaves the address sanitizer out by itself, so it is named past the driver.
        checks = ("-Xclang", "-fsanitize=address", "-fsanitize=undefined")
        mode = ["-O1", "-fPIC", *checks, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        if target.coverage:
            mode.append("-fsanitize-coverage=trace-pc-guard,trace-cmp")
    else:
        level = "-Os" if source.path.startswith(_COLD) else "-O3"
        mode = [level, "-fPIC" if target.library else "-fPIE", "-fno-sanitize=all"]
    place = ("-ffile-prefix-map=.=.", "-I.", "-c", source.path, "-o", OUTPUT)
    return ("c++", "-target", target.triple, *_COMPILE, *mode, *source.flags, *place)


def _link_arguments(target: Target) -> tuple[str, ...]:
    """Returns what stands between the linker's path and the objects."""
    if target.sanitize:
        shape = "-shared" if target.library else "-pie"
        return ("-fsanitize=address,undefined", shape, "-pthread")
    link = (*_LINK, *_LINK_PAGES[target.arch])
    if target.library:
        # glibc 2.28 still has threads in a library of their own.
        return ("cc", "-target", target.triple, "-shared", *link, "-Wl,-Bsymbolic", "-lpthread")
    shape = "-pie" if target.pie else "-no-pie"
    return ("cc", "-target", target.triple, "-static", shape, *link)


def _digest(arguments: Sequence[str], *inputs: str) -> str:
    """Returns the part of an output's name that stands for everything that goes into it."""
    content = json.dumps([COMPILER_VERSION, list(arguments), list(inputs)])
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def run(
    commands: Sequence[Command],
    *,
    directory: Path,
    jobs: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Executes the commands whose outputs do not exist yet; the last one after all others.

    Args:
        commands: From `plan`.
        directory: Where they run: the root of the engine's sources.
        jobs: Commands at the same time; the number of processors if None.
        progress: Called with the label of each command that is executed.

    Returns:
        The output of the last command.

    Raises:
        ToolchainError: A command cannot be started or fails. No partial output stays.
    """
    *first, last = commands

    def execute(command: Command) -> None:
        if command.output.exists():
            return
        if progress is not None:
            progress(command.label)
        _execute(command, directory)

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        for _ in pool.map(execute, first):
            pass
    execute(last)
    return last.output


def make_folder(folder: Path) -> Path:
    """Makes a folder of the build, where it is missing, and returns it.

    Raises:
        ToolchainError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _folder_error(folder, error) from error
    return folder


def _folder_error(folder: Path, error: OSError) -> ToolchainError:
    return ToolchainError(
        f"folder for objects cannot be written: `{folder}`", where=error.strerror or str(error)
    )


def _execute(command: Command, directory: Path) -> None:
    """Runs one command into a temporary name beside its output, then renames."""
    folder = make_folder(command.output.parent)
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    except OSError as error:
        raise _folder_error(folder, error) from error
    try:
        target = scratch / command.output.name
        argv = [argument.replace(OUTPUT, str(target)) for argument in command.argv]
        result = subprocess.run(
            argv,
            cwd=directory,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if result.returncode != 0 or not target.is_file():
            lines = result.stdout.decode("utf-8", "replace").splitlines()[:20]
            raise ToolchainError(f"compiler failed: `{command.label}`", where=tuple(lines))
        target.replace(command.output)
    except OSError as error:
        raise ToolchainError(
            f"compiler cannot be started: `{command.argv[0]}`",
            where=error.strerror or str(error),
            hint="install it, or run `make setup`",
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# Names without influence on the bytes: where tools, home and caches are.
_ENVIRONMENT_KEPT: Final = ("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR")


def _environment() -> dict[str, str]:
    """Returns the environment of the compiler: nothing in it can change the output."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT_KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC", "SOURCE_DATE_EPOCH": "0"}


def build_program(
    name: str,
    target: Target,
    *,
    tokenizer_directory: Path | None = None,
    build: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Builds a program of PROGRAMS, without a model inside, and returns its path.

    Args:
        name: Key of PROGRAMS.
        target: What it is built for.
        tokenizer_directory: Folder of the compiled `tokenizer.inc`, where the program needs one.
        build: Root of objects and outputs; `build_root()` if None.
        progress: Called with a label before each step that is not already done.

    Raises:
        ToolchainError: The compiler is missing or fails, or `tokenizer.inc` is missing.
    """
    program = PROGRAMS[name]
    include: tuple[Path, ...] = ()
    if program.tokenizer:
        if tokenizer_directory is None or not (tokenizer_directory / "tokenizer.inc").is_file():
            raise ToolchainError(f"compiled tokenizer is missing: `{program.name}` needs one")
        include = (tokenizer_directory.resolve(),)
    engine = engine_root()
    commands = plan(
        program,
        target,
        engine=engine,
        build=(build or build_root()).resolve(),
        compiler=str(find_compiler()),
        include=include,
    )
    return run(commands, directory=engine, progress=progress)


def build_library(
    *,
    build: Path | None = None,
    sanitize: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Builds the shared library for Python on this host and returns its path.

    Raises:
        ToolchainError: As `build_program`.
    """
    target = Target(host_arch(), library=True, sanitize=sanitize)
    return build_program("library", target, build=build, progress=progress)
