"""The C++ tokenizer as a program: built with a tokenizer's tables, asked in batches."""

import functools
import hashlib
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bitnet.seal import toolchain
from bitnet.seal.sources import Program, build_root, engine_root
from bitnet.tokenizer import TokenizerTables, cut_added, emit_cpp

__all__ = ["Driver", "DriverError", "build_driver"]

_PROGRAM: Final = Program(
    "tokenizer-driver", "../tests/support/tokenizer_program.cc", ("tokenizer",), tokenizer=True
)
_FAILED: Final = 0xFFFFFFFF
_EMULATORS: Final = {"x86_64": "qemu-x86_64-static", "aarch64": "qemu-aarch64-static"}


class DriverError(Exception):
    """The C++ side answered with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Driver:
    """One built program; every call runs it once over all requests.

    Args:
        argv: How it is started.
        tables: What it was built with.
    """

    def __init__(self, argv: tuple[str, ...], tables: TokenizerTables) -> None:
        self.argv = argv
        self._tables = tables

    def encode(self, texts: Sequence[bytes], *, match_added: bool) -> list[list[int]]:
        """Token ids of each text; the program itself knows nothing of added tokens."""
        parts = [list(cut_added(self._tables, text)) if match_added else [text] for text in texts]
        plain = [part for row in parts for part in row if isinstance(part, bytes)]
        answers = iter(self._ask([b"i" + _block(part) for part in plain]))
        return [
            [
                index
                for part in row
                for index in ([part] if isinstance(part, int) else _ids(next(answers)))
            ]
            for row in parts
        ]

    def encode_chat(self, conversations: Sequence[tuple[bytes, bytes]]) -> list[list[int]]:
        """Token ids of each (system message or b"", user message)."""
        answers = self._ask(
            [b"u" + _block(system) + _block(user) for system, user in conversations]
        )
        return [_ids(answer) for answer in answers]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[bytes]:
        """Bytes of each sequence of ids."""
        requests = [b"d" + _block(struct.pack(f"<{len(ids)}I", *ids)) for ids in sequences]
        return self._ask(requests, width=1)

    def time(self, texts: Sequence[bytes]) -> tuple[int, int]:
        """Ids of all texts together, and the nanoseconds that encoding took inside the program."""
        (answer,) = self._ask([b"t" + _block(b"".join(map(_block, texts)))], width=1)
        ids, nanoseconds = struct.unpack("<QQ", answer)
        return ids, nanoseconds

    def _ask(self, requests: Sequence[bytes], *, width: int = 4) -> list[bytes]:
        result = subprocess.run(
            self.argv, input=b"".join(requests), capture_output=True, check=False
        )
        if result.returncode != 0:
            message = result.stderr.decode("utf-8", "replace")[-3000:]
            raise AssertionError(f"driver ended with {result.returncode}: {message}")
        answers = []
        place = 0
        for _ in requests:
            (count,) = struct.unpack_from("<I", result.stdout, place)
            if count == _FAILED:
                raise DriverError(struct.unpack_from("<I", result.stdout, place + 4)[0])
            answers.append(result.stdout[place + 4 : place + 4 + width * count])
            place += 4 + width * count
        assert place == len(result.stdout)
        return answers


def _block(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _ids(answer: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(answer) // 4}I", answer))


@functools.cache
def build_driver(
    tables: TokenizerTables, *, arch: str | None = None, sanitize: bool = False
) -> Driver:
    """Returns the program with these tables, built for an architecture.

    Args:
        tables: Of one tokenizer.
        arch: Of the host if None; another one runs under emulation.
        sanitize: With address and undefined-behaviour checks; host only.
    """
    host = toolchain.host_arch()
    text = emit_cpp(tables)
    build = build_root()
    folder = build / "tests" / "tokenizer" / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    include = folder / "tokenizer.inc"
    if not include.is_file() or include.read_text() != text:
        include.write_text(text)
    commands = toolchain.plan(
        _PROGRAM,
        toolchain.Target(arch or host, sanitize=sanitize),
        engine=engine_root(),
        build=build,
        compiler=str(toolchain.find_compiler()),
        include=(folder,),
    )
    program: Path = toolchain.run(commands, directory=engine_root(), jobs=1)
    emulator = () if arch in (None, host) else (_EMULATORS[arch],)
    return Driver((*emulator, str(program)), tables)
