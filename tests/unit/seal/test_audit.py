"""`make audit`: its readers find what is there, and the product keeps its promises."""

import re
import subprocess
from pathlib import Path

import pytest

from bitnet.seal.sources import ARCHITECTURES
from scripts import audit
from tests.support.attacks import build_attack_probe
from tests.test_tidy import GAP_LINES_MAX, code_lines, engine_files

ROOT = Path(__file__).resolve().parents[3]


def test_lines_are_those_of_the_tidy_test() -> None:
    """If this fails, the audit shows another size than the one that is held."""
    rooms = audit.count_lines(ROOT / "engine")
    paths = [path for path in engine_files() if path != "engine/programs/library.cc"]
    assert sum(counts[1] for counts in rooms.values()) == sum(map(code_lines, paths))
    assert audit.GAP_LINES_MAX == GAP_LINES_MAX


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_program_names_and_size_keep_the_promise(arch: str) -> None:
    """If this fails, code that can reach the network, start programs or allocate was linked."""
    facts = audit.audit(arch)
    assert facts["forbidden"] == []
    assert facts["undefined"] == []
    assert facts["engine_bytes"] <= audit.SIZE_GOAL_BYTES
    assert facts["tokenizer_bytes"] > 100_000
    calls = facts["system_calls"]
    assert {"exit_group", "mmap", "prctl", "clock_gettime"} <= calls.keys()
    network = {"socket", "connect", "bind", "sendto", "execve", "fork", "vfork", "ptrace"}
    assert not calls.keys() & network


def test_forbidden_names_are_found_where_they_are() -> None:
    """If this fails, the list above is empty because nothing is looked at."""
    probe = Path(build_attack_probe("x86_64"))
    stripped = subprocess.run(["nm", probe], capture_output=True, text=True, check=False)
    assert "no symbols" in stripped.stderr
    with pytest.raises(AssertionError, match="no symbols"):
        audit.symbols_of(probe)
    names = {each.name for each in audit.symbols_of(audit.named_program("x86_64"))}
    assert {"_start", "main", "pthread_create", "read", "write"} <= names


@pytest.mark.parametrize(("arch", "call"), [("x86_64", "fork"), ("aarch64", "clone")])
def test_program_that_starts_others_is_told_from_one_that_cannot(arch: str, call: str) -> None:
    """If this fails, the audit finds nothing forbidden in a program that forks either."""
    program = audit.with_symbols("bitnet-update", arch)
    names = {each.name for each in audit.symbols_of(program)}
    assert names & set(audit.FORBIDDEN) == {"fork"}
    known = audit.system_call_names(arch)
    sites = audit.kernel_calls(program, arch)
    assert call in {known[site.number] for site in sites if site.number is not None}
    # How it starts one: execveat, through the function that takes any number.
    assert any(site.number is None for site in sites)


def test_system_calls_are_those_of_the_disassembly() -> None:
    """If this fails, an instruction that enters the kernel is missed."""
    program = audit.named_program("x86_64")
    text = subprocess.run(
        ["objdump", "-d", program], capture_output=True, text=True, check=True
    ).stdout
    expected = re.findall(r"^ +([0-9a-f]+):\t0f 05 +\tsyscall", text, re.MULTILINE)
    sites = audit.kernel_calls(program, "x86_64")
    assert [f"{site.address:x}" for site in sites] == expected
    known = {site.function: site.number for site in sites if site.number is not None}
    names = audit.system_call_names("x86_64")
    assert names[known["__mprotect"]] == "mprotect"
    assert names[known["__madvise"]] == "madvise"
    # What takes its number as an argument, and nothing else, has none.
    free = {site.function for site in sites if site.number is None}
    assert free <= {"syscall", "__syscall_cp_asm", "__syscall_cp_c", "__cp_begin", "__clone"}
