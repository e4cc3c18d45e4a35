"""How the kernels' objects are built: symbols, flags, no fused operations."""

import re
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from bitnet.seal.sources import engine_root
from bitnet.seal.toolchain import Command
from tests.support import kernel_driver as driver

ARCHITECTURES = tuple(driver.TABLES)
KERNELS = engine_root() / "kernels"
# Of the compiler's own library, where the processor has no instruction for binary16.
HALF_CONVERSIONS = {"__extendhfsf2", "__truncsfhf2"}


def kernel_steps(arch: str) -> dict[str, Command]:
    """Compile commands of the kernels by file name, executed."""
    driver.build(arch)
    steps = driver.commands(arch)
    return {
        step.label.rpartition("/")[2]: step for step in steps if "compile kernels/" in step.label
    }


def object_symbols(path: Path) -> tuple[set[str], set[str], set[str]]:
    """Returns names that an object exports, leaves undefined, and exports weakly."""
    exported: set[str] = set()
    undefined: set[str] = set()
    weak: set[str] = set()
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        for symbol in table.iter_symbols():
            if symbol["st_info"]["bind"] == "STB_LOCAL" or not symbol.name:
                continue
            if symbol["st_info"]["bind"] != "STB_GLOBAL":
                weak.add(symbol.name)
            target = undefined if symbol["st_shndx"] == "SHN_UNDEF" else exported
            target.add(symbol.name)
    return exported, undefined, weak


def kernel_name(symbol: str) -> str:
    """`bitnet::kernels::NAME` of a mangled function name, or the symbol itself."""
    match = re.match(r"_ZN6bitnet7kernels(\d+)", symbol)
    return symbol[match.end() : match.end() + int(match[1])] if match else symbol


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_objects_export_nothing_but_their_part_of_a_table(arch: str) -> None:
    """The linker could keep a copy of a shared function that needs AVX, for a program without."""
    for name, step in kernel_steps(arch).items():
        exported, undefined, weak = object_symbols(step.output)
        assert not weak, name
        if name == "table.cc":
            continue
        isa = Path(name).stem.removeprefix("kernels_")
        assert isa in driver.TABLES[arch]
        assert [kernel_name(symbol) for symbol in exported] == [f"kernels_{isa}"], name
        allowed = {"memset", "memcpy", "__stack_chk_fail", "__stack_chk_guard"}
        if isa == "ref":
            allowed |= HALF_CONVERSIONS
        assert undefined <= allowed | {"_GLOBAL_OFFSET_TABLE_"}, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_sources_json_names_every_file_and_its_flags(arch: str) -> None:
    """A kernel file would be left out of the build, or its header would tell other flags."""
    files = {path.name for path in KERNELS.glob("*.cc")}
    suffixes = {f"_{isa}.cc" for isa in driver.TABLES[arch]}
    wanted = {name for name in files if name == "table.cc" or any(map(name.endswith, suffixes))}
    steps = kernel_steps(arch)
    assert set(steps) == wanted
    for name, step in steps.items():
        head = (KERNELS / name).read_text(encoding="utf-8").partition("#include")[0]
        own = [flag for flag in step.argv if re.match(r"-m|-fno-math|-Wno", flag)]
        assert all(flag in head for flag in own), f"{name}: {own}"


FUSED = {
    "x86_64": r"^\s+(vfn?m(?:add|sub)\w+)",
    "aarch64": r"^\s+(fml[as]l?2?|fn?m(?:add|sub))\b",
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_objects_have_no_fused_multiply_add(arch: str, tmp_path: Path) -> None:
    """A product and a sum would be rounded once, on the instruction sets that can."""
    for name, step in kernel_steps(arch).items():
        assert re.findall(FUSED[arch], driver.assembly(step, tmp_path), re.MULTILINE) == [], name


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("x86_64", "kernels_avx512vnni.cc"),
        ("aarch64", "kernels_ref.cc"),
        ("aarch64", "kernels_dotprod.cc"),
    ],
)
def test_fused_multiply_add_is_recognised_where_allowed(
    arch: str, name: str, tmp_path: Path
) -> None:
    """The test before this one could not fail."""
    text = driver.assembly(kernel_steps(arch)[name], tmp_path, "-ffp-contract=fast")
    assert len(re.findall(FUSED[arch], text, re.MULTILINE)) > 10


def test_baseline_objects_use_no_wider_registers(tmp_path: Path) -> None:
    """The program would not start on an x86-64 without AVX."""
    for name, step in kernel_steps("x86_64").items():
        if name == "table.cc" or name.endswith("_ref.cc"):
            text = driver.assembly(step, tmp_path)
            assert re.search(r"%[yz]mm|^\s+v[a-z]+ps", text, re.MULTILINE) is None, name
