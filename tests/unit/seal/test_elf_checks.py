"""The table of facts against readelf, and each fact made false in turn."""

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet.errors import FormatError
from bitnet.seal.elf import PHDR_BYTES, read_elf
from bitnet.seal.elf_checks import check_executable, inspect_executable
from bitnet.seal.embed import seal
from tests.support.sealing import build_probe, make_model


def facts_of(path: Path) -> dict[str, tuple[str, bool]]:
    return {fact.name: (fact.value, fact.ok) for fact in inspect_executable(path)}


def readelf(*arguments: str) -> str:
    return subprocess.run(
        ["readelf", "-W", *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


@pytest.fixture(params=[("x86_64", True), ("x86_64", False), ("aarch64", True)], ids=str)
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A sealed probe of each kind."""
    arch, pie = request.param
    make_model(tmp_path / "model.bin", 100_000)
    seal(build_probe(arch, pie=pie), tmp_path / "model.bin", tmp_path / "sealed")
    return tmp_path / "sealed"


def test_inspect_sealed_agrees_with_readelf(sealed: Path) -> None:
    """Two readers that share nothing must see the same file."""
    facts = facts_of(sealed)
    assert all(ok for _, ok in facts.values())
    segments, dynamic = readelf("-l", str(sealed)), readelf("-d", str(sealed))
    pie = "DYN (" in segments
    assert facts["kind"][0] == ("static-pie" if pie else "static, fixed address")
    assert "INTERP" not in segments
    assert "NEEDED" not in dynamic
    assert "TEXTREL" not in dynamic
    assert re.search(r"GNU_STACK .* RW +0", segments)
    assert not re.search(r"LOAD .* RWE ", segments)
    assert facts["relro"][0] == ("present" if pie else "no dynamic section")
    assert ("GNU_RELRO" in segments) >= pie
    assert ("NOW" in dynamic) == pie
    payload = re.findall(r"LOAD +0x(\w+) 0x(\w+) 0x\w+ 0x(\w+) 0x(\w+) (...) 0x200000", segments)
    assert len(payload) == 1
    offset, _, file_bytes, memory_bytes, flags = payload[0]
    assert flags.strip() == "R"
    assert file_bytes == memory_bytes
    place = f"{int(file_bytes, 16)} bytes at offset {int(offset, 16)}"
    assert facts["model"][0].startswith(place)


def test_inspect_counts_relocations_as_readelf(tmp_path: Path) -> None:
    probe = build_probe("x86_64")
    count = readelf("-r", str(probe)).count("R_X86_64_RELATIVE")
    assert count > 0
    assert facts_of(probe)["relocations"] == (f"{count}, all relative", True)


def test_inspect_dynamic_program_names_what_is_wrong() -> None:
    """The facts of an ordinary program of the system, which is no static one."""
    facts = facts_of(Path("/bin/true"))
    assert facts["interpreter"] == ("present", False)
    assert facts["needed libraries"][1] is False
    assert facts["undefined symbols"][1] is False
    with pytest.raises(FormatError) as caught:
        check_executable(Path("/bin/true"), sealed=False)
    assert any(line.startswith("interpreter") for line in caught.value.where)


def test_check_unsealed_passes_only_where_no_model_is_needed() -> None:
    check_executable(build_probe("x86_64"), sealed=False)
    with pytest.raises(FormatError) as caught:
        check_executable(build_probe("x86_64"), sealed=True)
    assert caught.value.where == (f"{'model':<22} none",)


@pytest.mark.parametrize(("arch", "call"), [("x86_64", None), ("aarch64", 0b100101)])
def test_inspect_without_stack_protector_says_so(
    tmp_path: Path, arch: str, call: int | None
) -> None:
    """Take the canary out of the code, and the fact must become false."""
    data = bytearray(build_probe(arch).read_bytes())
    if call is None:
        pattern = re.compile(rb"\x64[\x48\x4c]\x8b(.)\x25\x28\0\0\0", re.DOTALL)
        for match in pattern.finditer(bytes(data)):
            data[match.start() + 5] = 0x30
    else:
        data = data.replace(struct.pack("<II", 0xAA1F03E8, 0x3900011F), bytes(8))
    (tmp_path / "program").write_bytes(data)
    assert facts_of(tmp_path / "program")["stack protector"] == ("none", False)


def change_segment(
    path: Path, kind: int, change: Callable[[list[int]], None], *, index: int = 0
) -> None:
    """Rewrites one program header of a type: type, flags, offset, vaddr, paddr, sizes, align."""
    data = bytearray(path.read_bytes())
    numbers = [i for i, segment in enumerate(read_elf(path).segments) if segment.type == kind]
    at = 64 + numbers[index] * PHDR_BYTES
    values = list(struct.unpack_from("<IIQQQQQQ", data, at))
    change(values)
    struct.pack_into("<IIQQQQQQ", data, at, *values)
    path.write_bytes(data)


def put(field: int, value: int) -> Callable[[list[int]], None]:
    def change(values: list[int]) -> None:
        values[field] = value

    return change


@pytest.mark.parametrize(
    ("kind", "index", "change", "fact"),
    [
        (0x6474E551, 0, put(1, 7), "stack"),
        (0x6474E551, 0, put(0, 0x60000000), "stack"),
        (0x6474E552, 0, put(0, 0x60000000), "relro"),
        (1, 1, put(1, 7), "writable code"),
        (0x6474E551, 0, put(0, 3), "interpreter"),
        (1, -1, put(1, 6), "model"),
        (1, -1, put(1, 5), "model"),
        (1, -1, put(7, 4096), "model"),
    ],
)
def test_inspect_changed_segment_makes_one_fact_false(
    tmp_path: Path, kind: int, index: int, change: Callable[[list[int]], None], fact: str
) -> None:
    make_model(tmp_path / "model.bin", 8192)
    path = tmp_path / "sealed"
    seal(build_probe("aarch64"), tmp_path / "model.bin", path)
    change_segment(path, kind, change, index=index)
    assert facts_of(path)[fact][1] is False
    with pytest.raises(FormatError, match="executable is not hardened"):
        check_executable(path, sealed=True)


@pytest.mark.parametrize(
    ("tag", "value", "fact"),
    [(1, 1, "needed libraries"), (22, 0, "text relocations"), (30, 4, "text relocations")],
)
def test_inspect_changed_dynamic_entry_makes_one_fact_false(
    tmp_path: Path, tag: int, value: int, fact: str
) -> None:
    """DT_NEEDED, DT_TEXTREL and DF_TEXTREL in place of DT_FLAGS."""
    data = bytearray(build_probe("x86_64").read_bytes())
    flags = data.index(struct.pack("<QQ", 30, 8))
    struct.pack_into("<QQ", data, flags, tag, value)
    (tmp_path / "program").write_bytes(data)
    assert facts_of(tmp_path / "program")[fact][1] is False


def test_inspect_without_bind_now_says_so(tmp_path: Path) -> None:
    data = bytearray(build_probe("x86_64").read_bytes())
    struct.pack_into("<Q", data, data.index(struct.pack("<QQ", 30, 8)) + 8, 0)
    flags_1 = data.index(struct.pack("<QQ", 0x6FFFFFFB, 0x08000001))
    struct.pack_into("<Q", data, flags_1 + 8, 0x08000000)
    (tmp_path / "program").write_bytes(data)
    assert facts_of(tmp_path / "program")["bind now"] == ("no", False)


@pytest.mark.parametrize("place", ["note", "model"])
def test_inspect_root_that_differs_says_so(tmp_path: Path, place: str) -> None:
    """The executable must name the model that it carries."""
    make_model(tmp_path / "model.bin", 8192)
    path = tmp_path / "sealed"
    payload = seal(build_probe("x86_64"), tmp_path / "model.bin", path)
    data = bytearray(path.read_bytes())
    offset = data.index(b"bitnet\0\0") + 8 if place == "note" else payload.payload_offset + 216
    data[offset] ^= 1
    path.write_bytes(data)
    assert facts_of(path)["model root"] == ("not the one the code names", False)
