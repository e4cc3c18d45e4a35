"""What an auditor asks of a static executable, answered from its bytes.

The facts are read with pyelftools, a second reader that shares nothing with the writer of
`bitnet.seal.embed`; `read_elf` goes first, so pyelftools sees only files whose headers hold
together.

A fact that cannot be true of this kind of file (RELRO without anything to relocate) says so.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from bitnet.errors import FormatError
from bitnet.quantize.layout import MAGIC, header_field
from bitnet.seal.elf import (
    ET_DYN,
    PF_R,
    PF_W,
    PF_X,
    PT_LOAD,
    Elf,
    Segment,
    read_elf,
)

__all__ = ["Fact", "check_executable", "inspect_executable"]

_PAYLOAD_ALIGN_BYTES: Final = 2 << 20
_MODEL_SECTION: Final = ".bitnet.model"
_NOTE_SECTION: Final = ".note.bitnet"
_NOTE_ROOT_OFFSET: Final = 20

_DF_TEXTREL: Final = 0x4
_DF_BIND_NOW: Final = 0x8
_DF_1_NOW: Final = 0x1
_DF_1_PIE: Final = 0x08000000

# Relocations of a static-PIE program add the load address and nothing else.
_RELATIVE: Final = {"x86_64": 8, "aarch64": 1027}

# A canary is loaded from the thread's control block on x86-64.
_CANARY_X86_64: Final = re.compile(
    rb"\x64[\x48\x4c]\x8b[\x04\x0c\x14\x1c\x24\x2c\x34\x3c]\x25\x28\0\0\0"
)
# On aarch64 a mismatch calls __stack_chk_fail of the pinned C library: mov x8, xzr; strb wzr,
# [x8]; ret.
_CHECK_FAIL_AARCH64: Final = struct.pack("<III", 0xAA1F03E8, 0x3900011F, 0xD65F03C0)
_CODE_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True)
class Fact:
    """One line of the table: what was asked, what the file says, and whether that is right."""

    name: str
    value: str
    ok: bool = True


class _Program:
    """An executable seen through both readers."""

    def __init__(self, elf: Elf, reader: Any) -> None:
        self.elf = elf
        self.reader = reader
        self.tags: list[tuple[str, int]] = []
        dynamic = reader.get_section_by_name(".dynamic")
        if dynamic is not None:
            self.tags = [(tag.entry.d_tag, tag.entry.d_val) for tag in dynamic.iter_tags()]

    def tag(self, name: str) -> int:
        """Returns the value of a dynamic entry, 0 without one."""
        return next((value for tag, value in self.tags if tag == name), 0)

    def has_segment(self, kind: str) -> bool:
        return any(segment["p_type"] == kind for segment in self.reader.iter_segments())

    @property
    def is_pie(self) -> bool:
        return self.elf.header.type == ET_DYN


def inspect_executable(path: Path) -> list[Fact]:
    """Returns the facts of an executable.

    Raises:
        FormatError: It is not an ELF program that can be read.
    """
    elf = read_elf(path)
    try:
        with path.open("rb") as file:
            program = _Program(elf, ELFFile(file))
            return [fact for check in _CHECKS for fact in check(program)]
    except (ELFError, ConstructError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"ELF file is malformed: `{path}`", where=str(error)) from error
    except (AssertionError, ArithmeticError, MemoryError, RecursionError, struct.error) as error:
        raise FormatError(f"ELF file is malformed: `{path}`", where=str(error)) from error
    except OSError as error:
        raise FormatError(
            f"file cannot be read: `{path}`", where=error.strerror or str(error)
        ) from error


def check_executable(path: Path, *, sealed: bool) -> list[Fact]:
    """Returns the facts of an executable if all of them are right.

    Args:
        path: The executable.
        sealed: Whether it has to carry a model.

    Raises:
        FormatError: It cannot be read, or facts are not right; each of them is named.
    """
    facts = inspect_executable(path)
    failing = [f"{fact.name:<22} {fact.value}" for fact in facts if not fact.ok]
    if sealed and Fact("model", "none") in facts:
        failing.append(f"{'model':<22} none")
    if failing:
        raise FormatError(f"executable is not hardened: `{path}`", where=tuple(failing))
    return facts


def _check_kind(program: _Program) -> Iterator[Fact]:
    yield Fact("file bytes", str(program.elf.file_bytes))
    yield Fact("architecture", program.elf.arch)
    if program.is_pie:
        pie = bool(program.tag("DT_FLAGS_1") & _DF_1_PIE)
        static = not program.has_segment("PT_INTERP")
        yield Fact("kind", ("static-pie" if static else "pie") if pie else "shared object", pie)
    else:
        static = not program.has_segment("PT_INTERP")
        yield Fact("kind", "static, fixed address" if static else "fixed address")


def _check_independence(program: _Program) -> Iterator[Fact]:
    interpreter = program.has_segment("PT_INTERP")
    yield Fact("interpreter", "present" if interpreter else "none", not interpreter)
    needed = sum(tag == "DT_NEEDED" for tag, _ in program.tags)
    yield Fact("needed libraries", str(needed) if needed else "none", not needed)
    undefined = _undefined_symbols(program)
    yield Fact("undefined symbols", ", ".join(undefined[:8]) or "none", not undefined)


def _undefined_symbols(program: _Program) -> list[str]:
    table = program.reader.get_section_by_name(".dynsym")
    if table is None:
        return []
    symbols = list(table.iter_symbols())[1:]
    return [symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"]


def _check_memory(program: _Program) -> Iterator[Fact]:
    flags = [segment.flags for segment in program.elf.load_segments]
    both = any(flag & PF_W and flag & PF_X for flag in flags)
    yield Fact("writable code", "present" if both else "none", not both)
    stacks = [s for s in program.reader.iter_segments() if s["p_type"] == "PT_GNU_STACK"]
    hard = len(stacks) == 1 and not stacks[0]["p_flags"] & PF_X
    yield Fact("stack", "not executable" if hard else "executable", hard)


def _check_relocation(program: _Program) -> Iterator[Fact]:
    if not program.tags:
        # Nothing is bound or relocated at start, so nothing has to be made read-only afterwards.
        relocated = program.is_pie
        for name in ("relro", "bind now", "text relocations", "relocations"):
            yield Fact(name, "no dynamic section", not relocated)
        return
    relro = program.has_segment("PT_GNU_RELRO")
    yield Fact("relro", "present" if relro else "none", relro)
    now = program.tag("DT_FLAGS") & _DF_BIND_NOW or program.tag("DT_FLAGS_1") & _DF_1_NOW
    now = bool(now) or any(tag == "DT_BIND_NOW" for tag, _ in program.tags)
    yield Fact("bind now", "yes" if now else "no", now)
    textrel = bool(program.tag("DT_FLAGS") & _DF_TEXTREL)
    textrel = textrel or any(tag == "DT_TEXTREL" for tag, _ in program.tags)
    yield Fact("text relocations", "present" if textrel else "none", not textrel)
    kinds = list(_relocation_kinds(program))
    other = sum(kind != _RELATIVE[program.elf.arch] for kind in kinds)
    text = f"{len(kinds)}, all relative" if not other else f"{other} of {len(kinds)} not relative"
    yield Fact("relocations", text, not other)


def _relocation_kinds(program: _Program) -> Iterator[int]:
    for section in program.reader.iter_sections():
        if section["sh_type"] in ("SHT_RELA", "SHT_REL"):
            for relocation in section.iter_relocations():
                yield relocation["r_info_type"]


def _check_canaries(program: _Program) -> Iterator[Fact]:
    count = 0
    for segment in program.elf.load_segments:
        if segment.flags & PF_X and segment.filesz <= _CODE_BYTES_MAX:
            program.reader.stream.seek(segment.offset)
            code = program.reader.stream.read(segment.filesz)
            count += _count_canaries(program.elf.arch, code)
    yield Fact("stack protector", f"present ({count})" if count else "none", count > 0)


def _count_canaries(arch: str, code: bytes) -> int:
    """Returns how many places of the code check a canary (aarch64) or load one (x86-64)."""
    if arch == "x86_64":
        return len(_CANARY_X86_64.findall(code))
    failures = set()
    at = code.find(_CHECK_FAIL_AARCH64)
    while at >= 0:
        failures.add(at // 4)
        at = code.find(_CHECK_FAIL_AARCH64, at + 4)
    count = 0
    for index, (word,) in enumerate(struct.iter_unpack("<I", code[: len(code) // 4 * 4])):
        if word >> 26 == 0b100101:
            distance = (word & 0x3FFFFFF) - ((word & 0x2000000) << 1)
            count += index + distance in failures
    return count


def _check_payload(program: _Program) -> Iterator[Fact]:
    section = program.reader.get_section_by_name(_MODEL_SECTION)
    if section is None:
        yield Fact("model", "none")
        return
    extent = (section["sh_offset"], section["sh_addr"], section["sh_size"])
    covering = [
        segment
        for segment in program.elf.load_segments
        if (segment.offset, segment.vaddr, segment.filesz) == extent
    ]
    if len(covering) != 1:
        yield Fact("model", "section and segment differ", ok=False)
        return
    payload = covering[0]
    fault = _payload_fault(program, payload)
    place = f"{payload.filesz} bytes at offset {payload.offset}, read-only, 2 MiB aligned"
    yield Fact("model", fault or place, not fault)
    field = header_field("root")
    root = _read(program, payload.offset + field.offset, field.byte_count)
    note = program.reader.get_section_by_name(_NOTE_SECTION)
    named = note is not None and root == _read(
        program, note["sh_offset"] + _NOTE_ROOT_OFFSET, field.byte_count
    )
    yield Fact("model root", root.hex() if named else "not the one the code names", named)


def _payload_fault(program: _Program, payload: Segment) -> str:
    """Returns what is wrong with the payload's segment, or nothing."""
    shape = (payload.type, payload.flags, payload.align, payload.memsz)
    if shape != (PT_LOAD, PF_R, _PAYLOAD_ALIGN_BYTES, payload.filesz):
        return "segment is not read-only, whole and aligned to 2 MiB"
    if payload.offset % _PAYLOAD_ALIGN_BYTES or payload.vaddr % _PAYLOAD_ALIGN_BYTES:
        return "place is not a multiple of 2 MiB"
    if payload != program.elf.load_segments[-1]:
        return "other segments lie above it"
    if _read(program, payload.offset, len(MAGIC)) != MAGIC:
        return "payload is not a model.bin"
    return ""


def _read(program: _Program, offset: int, size: int) -> bytes:
    program.reader.stream.seek(offset)
    return bytes(program.reader.stream.read(size))


_CHECKS: Final[tuple[Callable[[_Program], Iterator[Fact]], ...]] = (
    _check_kind,
    _check_independence,
    _check_memory,
    _check_relocation,
    _check_canaries,
    _check_payload,
)
