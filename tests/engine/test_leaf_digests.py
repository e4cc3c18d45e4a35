"""SHA3-384 over several leaves at once against hashlib, natively and under emulation."""

import functools
import hashlib
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitnet.seal import toolchain
from bitnet.seal.sources import Program, build_root, engine_root
from tests.support.engine import engine_library
from tests.support.sealing import run_on

LANES = {
    "x86_64": {"ref": 1, "avx2": 4, "avx512": 8},
    "aarch64": {"ref": 1, "neon": 2, "sha3": 2},
}
CASES = [(arch, name) for arch, names in LANES.items() for name in names]
# The message has 17 bytes before the data and a block has 104: 87, 191 … are where it grows.
LENGTHS = [*range(330), 1127, 4096, 65535, 65536]
PROGRAM = Program("leaf-digests", "../tests/engine/leaf_digests_main.cc", ("base", "crypto"))


@dataclass(frozen=True)
class Request:
    """Some neighbouring leaves of one length."""

    leaves: tuple[bytes, ...]
    index: int

    def pack(self) -> bytes:
        head = struct.pack("<IIQII", len(self.leaves[0]), len(self.leaves), self.index, 1, 0)
        return head + b"".join(self.leaves)

    def expected(self) -> bytes:
        """docs/formats/model.md, Digests, by hashlib."""
        return b"".join(
            hashlib.sha3_384(b"\0" + struct.pack("<QQ", self.index + i, len(leaf)) + leaf).digest()
            for i, leaf in enumerate(self.leaves)
        )


@functools.cache
def program(arch: str, *, sanitize: bool = False) -> Path:
    """Returns the test program for an architecture."""
    commands = toolchain.plan(
        PROGRAM,
        toolchain.Target(arch, sanitize=sanitize),
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )
    return toolchain.run(commands, directory=engine_root())


def skip_unless_available(arch: str, name: str) -> None:
    """An instruction set that this host lacks cannot be run; under emulation all can."""
    if arch != toolchain.host_arch():
        return
    shared = engine_library()
    names = [
        shared.bitnet_leaf_hash_name(i).decode() for i in range(shared.bitnet_leaf_hash_count())
    ]
    if not shared.bitnet_leaf_hash_available(names.index(name)):
        pytest.skip(f"this processor lacks {name}")


def requests(lanes: int, lengths: Sequence[int]) -> list[Request]:
    rng = random.Random(1600)
    made = []
    for length in lengths:
        counts = range(1, lanes + 1) if length in (0, 86, 87, 88, 191) else [lanes]
        for count in counts:
            leaves = tuple(rng.randbytes(length) for _ in range(count))
            made.append(Request(leaves, rng.choice([0, 1, rng.randrange(2**63)])))
    return made


@pytest.mark.parametrize(("arch", "name"), CASES)
def test_leaf_digests_any_length_and_count_equal_hashlib(arch: str, name: str) -> None:
    """A wrong digest would refuse good models, or let a changed one pass."""
    skip_unless_available(arch, name)
    asked = requests(LANES[arch][name], LENGTHS)
    answer = run_on(arch, program(arch), name, stdin=b"".join(request.pack() for request in asked))
    place = 0
    for request in asked:
        expected = request.expected()
        found = answer[place : place + len(expected)]
        assert found == expected, f"{len(request.leaves)} leaves of {len(request.leaves[0])} bytes"
        place += len(expected)
    assert place == len(answer)


@pytest.mark.parametrize("name", LANES[toolchain.host_arch()])
def test_leaf_digests_with_sanitizers_read_no_byte_beside(name: str) -> None:
    """A read past the last leaf is a fault at the end of the last page of a model."""
    arch = toolchain.host_arch()
    skip_unless_available(arch, name)
    asked = requests(LANES[arch][name], [0, 1, 86, 87, 88, 190, 191, 192, 1000])
    stdin = b"".join(request.pack() for request in asked)
    answer = run_on(arch, program(arch, sanitize=True), name, stdin=stdin)
    assert answer == b"".join(request.expected() for request in asked)


def test_library_lists_the_implementations_of_this_host() -> None:
    """A name that is missing here is one that no test reaches."""
    shared = engine_library()
    found = {
        shared.bitnet_leaf_hash_name(i).decode(): shared.bitnet_leaf_hash_lanes(i)
        for i in range(shared.bitnet_leaf_hash_count())
    }
    assert found == LANES[toolchain.host_arch()]
