"""Digests of engine/crypto against hashlib, natively and for aarch64 under emulation."""

import hashlib
import random

import pytest
from elftools.elf.elffile import ELFFile

from bitnet.seal import toolchain
from bitnet.seal.sources import engine_root
from tests.support.sealing import build_probe, plan_probe, probe_facts

# Block sizes are 104 (SHA3-384) and 128 (SHA-384); padding of the latter changes at 112.
LENGTHS = [*range(6), 103, 104, 105, 111, 112, 113, 127, 128, 129, 207, 208, 209, 239, 240, 256]
LONG_LENGTHS = [1000, 4096, 65535, 65536, 300_007]


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_digests_any_length_and_step_equal_hashlib(arch: str) -> None:
    """A wrong digest would refuse good models, or accept a changed one."""
    probe = build_probe(arch)
    rng = random.Random(384)
    for length in LENGTHS + LONG_LENGTHS:
        data = rng.randbytes(length)
        step = rng.choice([1, 7, 64, 104, 128, 1000])
        facts = probe_facts(arch, probe, "digest", str(step), stdin=data)
        sha3, sha2 = hashlib.sha3_384(data).hexdigest(), hashlib.sha384(data).hexdigest()
        assert facts == {
            "sha3_384": sha3,
            "sha3_384_steps": sha3,
            "sha384": sha2,
            "sha384_steps": sha2,
        }, f"{length} bytes in steps of {step}"


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_crypto_object_needs_nothing_but_memory_functions(arch: str) -> None:
    """A panic path or a library call would bring code into the gap that nobody asked for."""
    build_probe(arch)
    planned = {command.label: command for command in plan_probe(toolchain.Target(arch))}
    with planned["compile crypto/crypto.zig"].output.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        undefined = {
            symbol.name for symbol in table.iter_symbols() if symbol["st_shndx"] == "SHN_UNDEF"
        }
    assert undefined - {""} <= {"memcpy", "memmove", "memset"}


def test_digest_state_size_same_in_header_and_zig() -> None:
    """The two sides each fix the size of the state; a difference would overwrite the stack."""
    header = (engine_root() / "crypto" / "crypto.h").read_text(encoding="utf-8")
    source = (engine_root() / "crypto" / "crypto.zig").read_text(encoding="utf-8")
    assert "kDigestStateBytes = 384;\n" in header
    assert "const state_bytes = 384;\n" in source
