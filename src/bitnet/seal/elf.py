"""Headers of 64-bit little-endian ELF files: read strictly, and written back.

Every count, offset and size is checked against the file before it is used, so what `read_elf`
returns holds together: tables and contents lie inside the file, load segments ascend and do not
overlap. Only headers are read, whatever the size of the file.

Source: System V ABI, gABI 4.1, chapters 4 and 5; the fields keep their names of the specification.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from bitnet.errors import FormatError
from bitnet.files import open_regular

__all__ = [
    "EHDR_BYTES",
    "ET_DYN",
    "ET_EXEC",
    "MACHINES",
    "PF_R",
    "PF_W",
    "PF_X",
    "PHDR_BYTES",
    "PT_LOAD",
    "PT_NOTE",
    "SHDR_BYTES",
    "SHF_ALLOC",
    "SHT_NOBITS",
    "SHT_NOTE",
    "SHT_PROGBITS",
    "Elf",
    "ElfHeader",
    "Section",
    "Segment",
    "read_elf",
]

EHDR_BYTES: Final = 64
PHDR_BYTES: Final = 56
SHDR_BYTES: Final = 64
ET_EXEC: Final = 2
ET_DYN: Final = 3
PT_LOAD: Final = 1
PT_NOTE: Final = 4
PF_X: Final = 1
PF_W: Final = 2
PF_R: Final = 4
SHT_PROGBITS: Final = 1
SHT_STRTAB: Final = 3
SHT_NOTE: Final = 7
SHT_NOBITS: Final = 8
SHF_ALLOC: Final = 2

MACHINES: Final = {62: "x86_64", 183: "aarch64"}

# A linked program has some dozen of each; far more is an attack on the reader.
_SEGMENT_COUNT_MAX: Final = 128
_SECTION_COUNT_MAX: Final = 4096
_NAME_TABLE_BYTES_MAX: Final = 1 << 20
# Addresses of user space end here on both architectures; it also keeps every sum below 2^64.
_ADDRESS_MAX: Final = 1 << 47


@dataclass(frozen=True)
class ElfHeader:
    """The file header without its magic, `Elf64_Ehdr`."""

    ident: bytes
    type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int

    _LAYOUT = struct.Struct("<16sHHIQQQIHHHHHH")

    @classmethod
    def unpack(cls, data: bytes) -> "ElfHeader":
        """Reads 64 bytes."""
        return cls(*cls._LAYOUT.unpack(data))

    def pack(self) -> bytes:
        """Writes 64 bytes."""
        return self._LAYOUT.pack(*(getattr(self, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Segment:
    """A program header, `Elf64_Phdr`."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int

    _LAYOUT = struct.Struct("<IIQQQQQQ")

    @classmethod
    def unpack(cls, data: bytes) -> "Segment":
        """Reads 56 bytes."""
        return cls(*cls._LAYOUT.unpack(data))

    def pack(self) -> bytes:
        """Writes 56 bytes."""
        return self._LAYOUT.pack(*(getattr(self, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Section:
    """A section header, `Elf64_Shdr`; `name` is an offset into the table of names."""

    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    addralign: int
    entsize: int

    _LAYOUT = struct.Struct("<IIQQQQIIQQ")

    @classmethod
    def unpack(cls, data: bytes) -> "Section":
        """Reads 64 bytes."""
        return cls(*cls._LAYOUT.unpack(data))

    def pack(self) -> bytes:
        """Writes 64 bytes."""
        return self._LAYOUT.pack(*(getattr(self, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Elf:
    """The headers of one file.

    Attributes:
        path: Where it was read.
        file_bytes: Its size.
        header: The file header.
        segments: All program headers, in the order of the file.
        sections: All section headers, in the order of the file.
        section_names: The table of their names.
    """

    path: Path
    file_bytes: int
    header: ElfHeader
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    section_names: bytes

    @property
    def arch(self) -> str:
        """The architecture, in the words of the toolchain."""
        return MACHINES[self.header.machine]

    @property
    def load_segments(self) -> tuple[Segment, ...]:
        """The segments that are mapped, by ascending address."""
        return tuple(segment for segment in self.segments if segment.type == PT_LOAD)

    def section_name(self, section: Section) -> str:
        """Returns the name of a section; every byte outside ASCII is escaped."""
        end = self.section_names.index(b"\0", section.name)
        return self.section_names[section.name : end].decode("ascii", "backslashreplace")

    def find_section(self, name: str) -> Section | None:
        """Returns the first section of this name."""
        found = (section for section in self.sections if self.section_name(section) == name)
        return next(found, None)


class _Reader:
    """Reads ranges of one file; each range is checked against its size first."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.bytes = file.seek(0, 2)

    def error(self, what: str, *where: str) -> FormatError:
        return FormatError(f"{what}: `{self.path}`", where=(f"file      {self.path}", *where))

    def check(self, what: str, offset: int, size: int) -> None:
        if offset > self.bytes or size > self.bytes - offset:
            raise self.error(
                f"{what} lies outside the file",
                f"offset    {offset}",
                f"bytes     {size}",
                f"limit     {self.bytes}",
            )

    def read(self, what: str, offset: int, size: int) -> bytes:
        self.check(what, offset, size)
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) != size:
            raise self.error(f"{what} cannot be read whole", f"offset    {offset}")
        return data


def read_elf(path: Path) -> Elf:
    """Reads and checks the headers of an ELF program.

    Raises:
        FormatError: It cannot be read, is no 64-bit little-endian ELF program for a supported
            machine, or its headers do not hold together.
    """
    try:
        with open_regular(path) as file:
            return _read(_Reader(path, file))
    except OSError as error:
        raise FormatError(
            f"file cannot be read: `{path}`", where=error.strerror or str(error)
        ) from error


def _read(reader: _Reader) -> Elf:
    header = _read_header(reader)
    table = reader.read("program header table", header.phoff, header.phnum * PHDR_BYTES)
    segments = tuple(
        Segment.unpack(table[at : at + PHDR_BYTES]) for at in range(0, len(table), PHDR_BYTES)
    )
    for index, segment in enumerate(segments):
        _check_segment(reader, index, segment)
    _check_load_order(reader, segments)
    table = reader.read("section header table", header.shoff, header.shnum * SHDR_BYTES)
    sections = tuple(
        Section.unpack(table[at : at + SHDR_BYTES]) for at in range(0, len(table), SHDR_BYTES)
    )
    names = _read_section_names(reader, header, sections)
    return Elf(reader.path, reader.bytes, header, segments, sections, names)


def _read_header(reader: _Reader) -> ElfHeader:
    if reader.bytes < EHDR_BYTES or reader.read("magic", 0, 4) != b"\x7fELF":
        raise reader.error("not an ELF file")
    header = ElfHeader.unpack(reader.read("file header", 0, EHDR_BYTES))
    if header.ident[4:7] != b"\x02\x01\x01" or header.version != 1:
        raise reader.error("not a 64-bit little-endian ELF file")
    if header.machine not in MACHINES:
        raise reader.error("machine is not supported", f"machine   {header.machine}")
    if header.type not in (ET_EXEC, ET_DYN):
        raise reader.error("not a linked program", f"type      {header.type}")
    sizes = (header.ehsize, header.phentsize, header.shentsize)
    if sizes != (EHDR_BYTES, PHDR_BYTES, SHDR_BYTES):
        raise reader.error("header sizes are not those of ELF-64", f"sizes     {sizes}")
    if not 1 <= header.phnum <= _SEGMENT_COUNT_MAX:
        raise reader.error("number of segments is out of range", f"count     {header.phnum}")
    if not 1 <= header.shnum <= _SECTION_COUNT_MAX or header.shstrndx >= header.shnum:
        raise reader.error("number of sections is out of range", f"count     {header.shnum}")
    return header


def _check_segment(reader: _Reader, index: int, segment: Segment) -> None:
    place = f"segment   {index}"
    reader.check("segment", segment.offset, segment.filesz)
    if segment.vaddr > _ADDRESS_MAX or segment.memsz > _ADDRESS_MAX:
        raise reader.error("segment lies outside the address space", place)
    if segment.align & (segment.align - 1) if segment.align else False:
        raise reader.error("alignment is not a power of two", place, f"align     {segment.align}")
    if segment.type == PT_LOAD:
        if segment.filesz > segment.memsz:
            raise reader.error("segment is larger in the file than in memory", place)
        if segment.align > 1 and (segment.vaddr - segment.offset) % segment.align:
            raise reader.error("segment is not aligned", place, f"align     {segment.align}")


def _check_load_order(reader: _Reader, segments: tuple[Segment, ...]) -> None:
    end = 0
    for index, segment in enumerate(segments):
        if segment.type != PT_LOAD:
            continue
        if segment.vaddr < end:
            raise reader.error("load segments overlap or do not ascend", f"segment   {index}")
        end = segment.vaddr + segment.memsz


def _read_section_names(reader: _Reader, header: ElfHeader, sections: tuple[Section, ...]) -> bytes:
    for index, section in enumerate(sections):
        if section.type != SHT_NOBITS:
            reader.check(f"section {index}", section.offset, section.size)
    table = sections[header.shstrndx]
    if table.type != SHT_STRTAB or not 1 <= table.size <= _NAME_TABLE_BYTES_MAX:
        raise reader.error("table of section names is malformed", f"bytes     {table.size}")
    names = reader.read("table of section names", table.offset, table.size)
    if names[-1] != 0:
        raise reader.error("table of section names does not end")
    for index, section in enumerate(sections):
        if section.name >= len(names):
            raise reader.error("name of a section lies outside the table", f"section   {index}")
    return names
