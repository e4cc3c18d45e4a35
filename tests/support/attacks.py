"""Attacks on the lock-down from inside: every system call, in a fresh locked process each.

`make attack` runs it as a program and prints the table; tests/programs/test_attack.py asserts it.
With `--kernel IMAGE`, an AArch64 kernel, the same is done in a machine of qemu that runs it.
"""

import argparse
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from bitnet.seal import toolchain
from bitnet.seal.sources import Program, build_root, engine_root
from tests.support.engine import PROTECTIONS
from tests.support.host import absent_mask, clock_needs_call
from tests.support.kernel_guest import run_in_guest

__all__ = [
    "ENTRY_32",
    "EXEMPT",
    "MAIN",
    "PROBE",
    "WORKER",
    "Attack",
    "Outcome",
    "allowed_calls",
    "build_attack_probe",
    "chosen_attacks",
    "clock_attacks",
    "run_attack",
    "run_attacks",
    "swept_calls",
    "system_calls",
]

PROBE = Program(
    "attack-probe",
    "../tests/programs/attack/probe.cc",
    ("base", "crypto/crypto.zig", "format/executable.cc", "platform", "runtime"),
)
X32 = 1 << 30
MAIN = 0
WORKER = 2
# Two calls that serve the kernel's own probes alone: since Linux 6.14 and 6.18 it does not ask
# seccomp about them. Outside a probe one ends the process with SIGILL, the other returns ENXIO.
EXEMPT = "exempt in the kernel"
EXEMPT_NAMES = ("uretprobe", "uprobe")
_ENXIO = 6
ENTRY_32 = "32-bit entry"
# Numbers without a name, beyond the last that the headers know.
SPARE = 40


@dataclass(frozen=True)
class Attack:
    """One thing to try in a locked process, and on which of its three threads."""

    group: str
    name: str
    words: tuple[str, ...]
    thread: int = MAIN


@dataclass(frozen=True)
class Outcome:
    """How the process ended: the signal that killed it or 0, and what it wrote."""

    attack: Attack
    signal: int
    code: int
    output: str

    @property
    def locked(self) -> bool:
        """Whether the attack was made at all."""
        return self.output.startswith("locked\n")

    @property
    def died(self) -> bool:
        """Killed by the filter before the call returned."""
        return self.signal == signal.SIGSYS and self.output == "locked\n"

    @property
    def expected(self) -> bool:
        """Whether it ended as it must."""
        if self.attack.group == "allowed":
            return self.returned is not None
        if self.attack.group == ENTRY_32 and self.signal == signal.SIGSEGV:
            return self.output == "locked\n"  # a kernel without this entry
        if self.attack.group == EXEMPT and self.locked:
            return self.died or self.signal == signal.SIGILL or self.returned == -_ENXIO
        return self.died

    @property
    def returned(self) -> int | None:
        """What the call gave back, where it came back."""
        found = re.fullmatch(r"locked\nreturned (-?\d+)\nstill running\n", self.output)
        return int(found[1]) if found and self.code == 0 else None


@functools.cache
def build_attack_probe(arch: str) -> str:
    """Returns the path of the probe, linked with the engine's own objects."""
    commands = toolchain.plan(
        PROBE,
        toolchain.Target(arch),
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )
    return str(toolchain.run(commands, directory=engine_root()))


@functools.cache
def system_calls(arch: str) -> dict[str, int]:
    """Returns the kernel's system calls by name, from the headers that the compiler brings."""
    include = toolchain.find_compiler().parent / "lib/libc/include"
    x86_64 = "x86-linux-any/asm/unistd_64.h"
    generic = "any-linux-any/asm-generic/unistd.h"
    text = (include / (x86_64 if arch == "x86_64" else generic)).read_text(encoding="utf-8")
    rows = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.MULTILINE)
    return {name: int(number) for name, number in rows}


def swept_calls(arch: str) -> list[Attack]:
    """Returns one attack for every number, its x32 form, and some that no kernel has."""
    names = {number: name for name, number in system_calls(arch).items()}

    def attack(group: str, number: int, prefix: str = "") -> Attack:
        name = names.get(number & ~X32, "without a name")
        # 999 is no descriptor, and no address.
        return Attack(group, f"{prefix}{name} ({number})", ("call", str(number), "999"))

    numbers = range(max(names) + SPARE)
    attacks = [
        attack(EXEMPT if names.get(number) in EXEMPT_NAMES else "every number", number)
        for number in numbers
        if names.get(number) != "exit_group"
    ]
    if arch == "x86_64":
        # 512 to 547 exist in the x32 form alone.
        forms = range(X32, X32 + max(548, len(numbers)))
        attacks += [attack("every number, x32", number, "x32 ") for number in forms]
    read = system_calls(arch)["read"]
    beyond = (1 << 10, 1 << 16, 1 << 31 | read, (1 << 32) - 1)
    return [*attacks, *(attack("no such number", number) for number in beyond)]


def allowed_calls(arch: str) -> list[Attack]:
    """Returns the calls that must come back, on the main thread and on a worker."""
    number = system_calls(arch)
    calls = [
        ("read of standard input", (number["read"], 0, "@arena", 16)),
        ("write to standard output", (number["write"], 1, ":", 0)),
        ("write to standard error", (number["write"], 2, ":", 0)),
        ("write to a park pipe", (number["write"], 4, ":", 0)),
        ("read of a park pipe", (number["read"], 3, "@arena", 0)),
        ("write to the last park pipe", (number["write"], 8, ":", 0)),
        ("read of the last park pipe", (number["read"], 7, "@arena", 0)),
        # The kernel takes a descriptor from 32 bits: this is standard input.
        ("read, high bits set", (number["read"], 1 << 32, "@arena", 16)),
    ]
    return [
        Attack("allowed", name, ("call", *map(str, words)), thread)
        for name, words in calls
        for thread in (MAIN, WORKER)
    ]


_AT_FDCWD = -100
_READ_WRITE = 3
_EVERYTHING = 7
_ANONYMOUS = 0x22
_CLONE_THREAD = 0x3D0F00


Call = tuple[str, Sequence[object]]


def _intrusions(n: dict[str, int]) -> list[Call]:
    """Returns what an intruder would ask for."""
    return [
        ("memory, writable and executable", (n["mmap"], 0, 4096, _EVERYTHING, _ANONYMOUS, -1, 0)),
        ("memory", (n["mmap"], 0, 4096, _READ_WRITE, _ANONYMOUS, -1, 0)),
        ("weights writable", (n["mprotect"], "@weights", 4096, _READ_WRITE)),
        ("code writable", (n["mprotect"], "@code", 4096, _EVERYTHING)),
        ("arena executable", (n["mprotect"], "@arena", 4096, _EVERYTHING)),
        ("stack executable", (n["mprotect"], "@stack", 4096, _EVERYTHING)),
        ("arena executable by key", (n["pkey_mprotect"], "@arena", 4096, _EVERYTHING, -1)),
        ("weights unmapped", (n["munmap"], "@weights", 4096)),
        ("weights replaced", (n["mmap"], "@weights", 4096, _READ_WRITE, _ANONYMOUS | 0x10, -1, 0)),
        ("arena moved", (n["mremap"], "@arena", 4096, 8192, 1)),
        ("arena unlocked", (n["munlock"], "@arena", 65536)),
        ("arena into dumps", (n["madvise"], "@arena", 65536, 17)),
        ("heap grown", (n["brk"], 0)),
        ("file opened", (n["openat"], _AT_FDCWD, ":/etc/passwd", 0)),
        ("own memory opened", (n["openat"], _AT_FDCWD, ":/proc/self/mem", 2)),
        ("file opened, openat2", (n["openat2"], _AT_FDCWD, ":/etc/passwd", "@arena", 24)),
        ("socket", (n["socket"], 2, 1, 0)),
        ("socket pair", (n["socketpair"], 1, 1, 0, "@arena")),
        ("program", (n["execve"], ":/bin/sh", 0, 0)),
        ("program by descriptor", (n["execveat"], 0, ":", 0, 0, 0x1000)),
        ("process", (n["clone"], 17, 0, 0, 0, 0)),
        ("process, clone3", (n["clone3"], "@arena", 88)),
        ("thread", (n["clone"], _CLONE_THREAD, "@arena", 0, 0, 0)),
        ("trace", (n["ptrace"], 16, 1, 0, 0)),
        ("other memory read", (n["process_vm_readv"], 1, "@arena", 1, "@arena", 1, 0)),
        ("other memory written", (n["process_vm_writev"], 1, "@arena", 1, "@arena", 1, 0)),
        ("io_uring", (n["io_uring_setup"], 8, "@arena")),
        ("bpf", (n["bpf"], 0, "@arena", 72)),
        ("perf", (n["perf_event_open"], "@arena", 0, -1, -1, 0)),
        ("userfaultfd", (n["userfaultfd"], 0)),
        ("memory file", (n["memfd_create"], ":x", 0)),
        ("secret memory", (n["memfd_secret"], 0)),
        ("signal to the parent", (n["kill"], 1, 0)),
        ("signal to itself", (n["tgkill"], 1, 1, 0)),
        ("signal handler", (n["rt_sigaction"], 11, "@arena", 0, 8)),
        ("forged signal frame", (n["rt_sigreturn"],)),
        ("futex", (n["futex"], "@arena", 1, 1, 0)),
        ("dumpable again", (n["prctl"], 4, 1)),
        ("new filter", (n["seccomp"], 1, 0, "@arena")),
        ("weaker filter", (n["prctl"], 22, 0)),
        ("Landlock rules", (n["landlock_create_ruleset"], "@arena", 8, 0)),
        ("core limit raised", (n["prlimit64"], 0, 4, "@arena", 0)),
        ("user changed", (n["setresuid"], 0, 0, 0)),
        ("namespace", (n["unshare"], 0x10000000)),
        ("mount", (n["mount"], ":/", ":/", 0, 4096, 0)),
        ("kernel module", (n["finit_module"], 0, ":", 0)),
        ("keyring", (n["keyctl"], 0, -3, 0)),
        ("wall clock", (n["clock_gettime"], 0, "@arena")),
        ("one thread alone ends", (n["exit"], 0)),
        ("vectored write", (n["writev"], 1, "@arena", 0)),
        ("positioned read", (n["pread64"], 0, "@arena", 1, 0)),
        ("descriptor copied", (n["dup"], 0)),
        ("descriptor control", (n["fcntl"], 0, 0, 9)),
        ("device control", (n["ioctl"], 0, 0x5412, ":x")),
        ("descriptor sent", (n["sendmsg"], 1, "@arena", 0)),
    ]  # fmt: skip


def _descriptor_calls(n: dict[str, int]) -> list[Call]:
    """Returns reads and writes of what is not theirs: 3 to 8 are the ends of three park pipes."""
    beyond = (9, 10, 63, 64, 131, 1023, 1 << 31, (1 << 32) - 1, (1 << 32) + 9)
    return [
        (f"{verb}, descriptor {fd}", (n[verb], fd, "@arena", 1))
        for verb, own in (("read", (1, 2, 4, 6, 8)), ("write", (0, 3, 5, 7)))
        for fd in (*own, *beyond)
    ]


# Numbers of the 32-bit table; as 64-bit calls the last three are read(0), write(1) and exit_group,
# which the filter allows.
_CALLS_32 = (
    ("exit", 1, 0), ("read", 3, 0), ("write", 4, 0), ("execve", 11, 0), ("getpid", 20, 0),
    ("restart_syscall", 0, 0), ("exit", 1, 1), ("fgetxattr", 231, 7),
)  # fmt: skip


def chosen_attacks(arch: str) -> list[Attack]:
    """Returns calls with the arguments that an intruder would give, on both kinds of thread."""
    numbers = system_calls(arch)
    attacks = [
        Attack("chosen arguments", name, ("call", *(str(word) for word in words)), thread)
        for name, words in [*_intrusions(numbers), *_descriptor_calls(numbers)]
        for thread in (MAIN, WORKER)
    ]
    if arch == "x86_64":
        attacks += [
            Attack(ENTRY_32, f"int 0x80, {name}", ("int80", str(number), str(first)))
            for name, number, first in _CALLS_32
        ]
    return attacks


def clock_attacks(arch: str) -> list[Attack]:
    """Returns the call for the clock: allowed where the vDSO cannot answer, else an intrusion."""
    needs_call = clock_needs_call()
    if needs_call is None:  # this kernel does not say; the program tried it
        layer = Attack("layer", "filter", ("layer", str(PROTECTIONS.index("filter"))))
        needs_call = run_attack(layer).returned == 4
    group = "allowed" if needs_call else "chosen arguments"
    call = ("call", str(system_calls(arch)["clock_gettime"]), "1", "@arena")
    return [Attack(group, "monotonic clock", call, thread) for thread in (MAIN, WORKER)]


def run_attack(attack: Attack, *, accept: int = 0, **options: Any) -> Outcome:
    """Runs one attack in a process of its own.

    Bit i of `accept` lets layer i be missing, besides those that this kernel lacks.
    """
    accept |= absent_mask()
    command = [build_attack_probe(toolchain.host_arch()), str(accept), str(attack.thread)]
    try:
        result = subprocess.run(
            [*command, *attack.words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=30, check=False, **options,
        )  # fmt: skip
    except subprocess.TimeoutExpired as hung:
        # One of its threads ended and the others wait for it.
        return Outcome(attack, 0, 0, (hung.stdout or b"").decode("ascii") + "hung\n")
    code = result.returncode
    return Outcome(attack, max(-code, 0), max(code, 0), result.stdout.decode("ascii"))


def run_attacks(attacks: Sequence[Attack]) -> Iterator[Outcome]:
    """Runs many, as many at a time as there are processors; yields in their order."""
    build_attack_probe(toolchain.host_arch())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(run_attack, attacks)


def run_attacks_in_guest(attacks: Sequence[Attack], kernel: Path) -> Iterator[Outcome]:
    """Runs many under an AArch64 kernel of its own, one after the other; yields in their order."""
    jobs = [["/probe", "0", str(attack.thread), *attack.words] for attack in attacks]
    files: dict[str, Path | bytes] = {"probe": Path(build_attack_probe("aarch64"))}
    for attack, ended in zip(attacks, run_in_guest(kernel, jobs, files), strict=True):
        yield Outcome(attack, ended.signal, ended.code, ended.output.decode("ascii"))


def main() -> int:
    """Prints how every attack ended, as a table or with `--json` as one object."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object in place of the table")
    parser.add_argument("--kernel", type=Path, help="an uncompressed AArch64 kernel to run in")
    options = parser.parse_args()
    arch = toolchain.host_arch() if options.kernel is None else "aarch64"
    start = time.monotonic()
    attacks = [*swept_calls(arch), *chosen_attacks(arch), *allowed_calls(arch)]
    if options.kernel is None:
        attacks += clock_attacks(arch)
        outcomes = run_attacks(attacks)
    else:
        outcomes = run_attacks_in_guest(attacks, options.kernel)
    as_json = options.json
    console = Console(highlight=False, stderr=as_json)
    steps = track(outcomes, "attacking", total=len(attacks), console=console)
    groups: dict[str, Counter[str]] = {}
    wrong = []
    for outcome in steps:
        counts = groups.setdefault(outcome.attack.group, Counter())
        ended = "survived" if outcome.returned is not None else "died otherwise"
        counts.update(["tried", "died by SIGSYS" if outcome.died else ended])
        if not outcome.expected:
            wrong.append(f"{outcome.attack.name}, thread {outcome.attack.thread}: {outcome}")
    if as_json:
        print(json.dumps({"arch": arch, "groups": groups, "wrong": wrong}))
        return 1 if wrong else 0
    columns = ("tried", "died by SIGSYS", "died otherwise", "survived")
    table = Table("attack", *columns, title=f"from inside a locked process, {arch}")
    for group, counts in groups.items():
        table.add_row(group, *(str(counts[name]) for name in columns))
    console.print(table)
    console.print(f"{len(attacks)} processes in {time.monotonic() - start:.1f} s")
    for line in wrong:
        console.print(f"[red]not as it must be: {escape(line)}[/red]")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
