"""engine/release and the very object of engine/crypto that ships, loaded into Python."""

import ctypes
import functools
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitnet.seal import toolchain
from bitnet.seal.sources import PROGRAMS, Program, build_root, engine_root
from tests.support.status_table import status_rows

__all__ = ["Told", "crypto", "order", "parse", "release", "root", "successor", "verify_program"]

_PROBE: Final = Program(
    "librelease-probe.so",
    "../tests/engine/release_probe.cc",
    (
        "base",
        "crypto",
        "release/manifest.cc",
        "release/text.cc",
        "release/trust.cc",
    ),
)
_ROLES: Final = ("root", "release", "site")
_COUNTS: Final = ("custodians", "threshold", "invalid", "revoked", "other_role", "unknown")


@dataclass(frozen=True)
class Told:
    """What the engine said: name of the status, its three numbers, and counts by role."""

    status: str
    where: int = 0
    value: int = 0
    limit: int = 0
    counts: tuple[tuple[str, dict[str, int]], ...] = ()

    def count(self, role: str) -> dict[str, int]:
        """How the signatures counted for a role."""
        return dict(self.counts)[role]


def _plan(program: Program, target: toolchain.Target) -> list[toolchain.Command]:
    return toolchain.plan(
        program,
        target,
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )


@functools.cache
def verify_program(arch: str) -> Path:
    """Returns bitnet-verify for an architecture."""
    return toolchain.build_program("bitnet-verify", toolchain.Target(arch))


@functools.cache
def crypto() -> ctypes.CDLL:
    """Returns the crypto object of this host's bitnet-verify, linked alone into a library.

    The object is the file that the static program was linked from, byte by byte.
    """
    arch = toolchain.host_arch()
    program = verify_program(arch)
    commands = _plan(PROGRAMS["bitnet-verify"], toolchain.Target(arch))
    (compiled,) = [each for each in commands if each.label == "compile crypto/crypto.zig"]
    assert compiled.output.name in "\n".join(map(str, _inputs(commands)))
    library = build_root() / arch / "bin" / f"crypto-{compiled.output.stem}.so"
    if not library.exists():
        scratch = library.with_suffix(f".{program.name[-20:]}")
        linker = [str(toolchain.find_compiler()), "cc", "-shared", "-o", str(scratch)]
        subprocess.run([*linker, str(compiled.output)], check=True)
        scratch.replace(library)
    loaded = ctypes.CDLL(str(library))
    for name in ("bitnet_ed25519_verify", "bitnet_mldsa87_verify"):
        function = getattr(loaded, name)
        function.restype = ctypes.c_bool
        function.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_size_t]
    for name in ("bitnet_sha384", "bitnet_sha3_384"):
        getattr(loaded, f"{name}_init").argtypes = [ctypes.c_char_p]
        getattr(loaded, f"{name}_update").argtypes = [*[ctypes.c_char_p] * 2, ctypes.c_size_t]
        getattr(loaded, f"{name}_final").argtypes = [ctypes.c_char_p] * 2
    return loaded


def _inputs(commands: list[toolchain.Command]) -> list[str]:
    """What the last command links."""
    return [argument for argument in commands[-1].argv if argument.endswith(".o")]


@functools.cache
def _library() -> ctypes.CDLL:
    commands = _plan(_PROBE, toolchain.Target(toolchain.host_arch(), library=True))
    return ctypes.CDLL(str(toolchain.run(commands, directory=engine_root())))


@functools.cache
def _names() -> dict[int, str]:
    return {row.number: row.name for row in status_rows().values()}


def _ask(function: Callable[..., int], *arguments: object) -> Told:
    numbers = (ctypes.c_uint64 * 3)()
    status = function(*arguments, numbers)
    return Told(_names()[status], *numbers)


def _data(*parts: bytes) -> list[object]:
    return [item for part in parts for item in (part, ctypes.c_size_t(len(part)))]


def parse(kind: str, data: bytes) -> Told:
    """Parses a `container`, `manifest`, `update`, `trust root`, `order` or `key`."""
    return _ask(_library().probe_parse, ctypes.c_char(kind[0].encode()), *_data(data))


def release(root_statement: bytes, signed: bytes) -> Told:
    """Decides about an `update.sig` under a root."""
    counts = (ctypes.c_uint64 * (len(_ROLES) * len(_COUNTS)))()
    numbers = (ctypes.c_uint64 * 3)()
    status = _library().probe_release(*_data(root_statement, signed), numbers, counts)
    step = len(_COUNTS)
    by_role = tuple(
        (role, dict(zip(_COUNTS, counts[index * step : (index + 1) * step], strict=True)))
        for index, role in enumerate(_ROLES)
    )
    return Told(_names()[status], *numbers, counts=by_role)


def order(root_statement: bytes, signed: bytes) -> Told:
    """Decides about a rollback order under a root."""
    return _ask(_library().probe_order, *_data(root_statement, signed))


def root(signed: bytes) -> Told:
    """Decides whether a root carries its own threshold."""
    return _ask(_library().probe_root, *_data(signed))


def successor(installed: bytes, following: bytes) -> Told:
    """Decides whether a root may follow an installed one."""
    return _ask(_library().probe_successor, *_data(installed, following))
