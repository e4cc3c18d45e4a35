"""The lock-down attacked from inside: the filter ends it all, without it each layer holds."""

import errno
import fcntl
import os
import signal

import pytest

from bitnet.seal.toolchain import host_arch
from tests.support.attacks import (
    EXEMPT,
    MAIN,
    WORKER,
    Attack,
    allowed_calls,
    chosen_attacks,
    clock_attacks,
    run_attack,
    run_attacks,
    swept_calls,
    system_calls,
)
from tests.support.engine import PROTECTIONS
from tests.support.host import absent_layers, landlock_abi
from tests.support.refused_calls import Refused, lacking

ARCH = host_arch()


def test_every_system_call_number_dies() -> None:
    """If this fails, a flaw in the program can ask the kernel for something."""
    attacks = swept_calls(ARCH)
    assert len(attacks) > 480
    outcomes = list(run_attacks(attacks))
    assert [outcome for outcome in outcomes if not outcome.expected] == []
    survivors = {outcome.attack.group for outcome in outcomes if outcome.returned is not None}
    assert survivors <= {EXEMPT}


def test_chosen_arguments_die() -> None:
    """If this fails, a call that is allowed for one purpose serves another."""
    attacks = chosen_attacks(ARCH)
    assert {attack.thread for attack in attacks} == {MAIN, WORKER}
    assert [outcome for outcome in run_attacks(attacks) if not outcome.expected] == []


def test_clock_is_called_only_where_the_vdso_cannot_answer() -> None:
    """If this fails, the filter allows one more call than the report says."""
    attacks = clock_attacks(ARCH)
    assert len(attacks) == 2
    assert [outcome for outcome in run_attacks(attacks) if not outcome.expected] == []


def test_allowed_calls_come_back() -> None:
    """If this fails, the filter is so strict that the program cannot work, and proves nothing."""
    outcomes = list(run_attacks(allowed_calls(ARCH)))
    assert [outcome for outcome in outcomes if outcome.returned != 0] == []


def test_exit_group_ends_the_process_with_its_code() -> None:
    """If this fails, a run cannot end but by being killed."""
    number = str(system_calls(ARCH)["exit_group"])
    for thread in (MAIN, WORKER):
        outcome = run_attack(Attack("exit", "exit_group", ("call", number, "7"), thread))
        assert (outcome.signal, outcome.code, outcome.output) == (0, 7, "locked\n")


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (("trap",), signal.SIGILL if ARCH == "x86_64" else signal.SIGTRAP),
        (("write", "@weights"), signal.SIGSEGV),
        (("write", "@code"), signal.SIGSEGV),
        (("execute", "@arena"), signal.SIGSEGV),
        (("execute", "@stack"), signal.SIGSEGV),
    ],
)
@pytest.mark.parametrize("thread", [MAIN, WORKER])
def test_memory_is_not_what_an_intruder_needs(
    words: tuple[str, ...], number: signal.Signals, thread: int
) -> None:
    """If this fails, code can be changed or brought in; or a defect found by a check goes on."""
    outcome = run_attack(Attack("memory", " ".join(words), words, thread))
    assert (outcome.signal, outcome.output) == (number, "locked\n")


# Without the filter, on a kernel that has no seccomp, the other layers stand alone.

NO_FILTER = lacking(Refused("seccomp", errno.ENOSYS))
ACCEPT_FILTER = 1 << PROTECTIONS.index("filter")
N = system_calls(ARCH)
AT_FDCWD = "-100"


# Layer, what it is asked for, the call, what it must return.
HELD = [
    ("mseal", "weights", (N["mprotect"], "@weights", 4096, 3), -errno.EPERM),
    ("mseal", "code", (N["mprotect"], "@code", 4096, 3), -errno.EPERM),
    ("mdwe", "arena", (N["mprotect"], "@arena", 4096, 7), -errno.EACCES),
    ("mseal", "unmap", (N["munmap"], "@weights", 4096), -errno.EPERM),
    ("mseal", "move", (N["mremap"], "@weights", 4096, 8192, 1), -errno.EPERM),
    ("mseal", "over", (N["mmap"], "@weights", 4096, 3, 0x32, -1, 0), -errno.EPERM),
    ("mdwe", "map", (N["mmap"], 0, 4096, 7, 0x22, -1, 0), -errno.EACCES),
    ("landlock", "read", (N["openat"], AT_FDCWD, ":/etc/passwd", 0), -errno.EACCES),
    ("landlock", "make", (N["openat"], AT_FDCWD, ":/tmp/x", 65, 420), -errno.EACCES),
    ("landlock", "execute", (N["execve"], ":/bin/true", 0, 0), -errno.EACCES),
    ("landlock", "signal", (N["kill"], os.getpid(), 0), -errno.EPERM),
    ("not_dumpable", "stays", (N["prctl"], 3), 0),
    ("no_new_privileges", "stays", (N["prctl"], 39), 1),
    ("mdwe", "is on", (N["prctl"], 66), 1),
    ("mdwe", "stays", (N["prctl"], 65, 0), -errno.EPERM),
]
# Since this version Landlock keeps signals inside (Linux 6.12).
LANDLOCK_SIGNALS = 6


@pytest.mark.parametrize(
    ("layer", "words", "expected"),
    [pytest.param(layer, *rest, id=f"{layer} {name}") for layer, name, *rest in HELD],
)
@pytest.mark.parametrize("thread", [MAIN, WORKER])
def test_layer_without_the_filter_holds(
    layer: str, words: tuple[object, ...], expected: int, thread: int
) -> None:
    """If this fails, a layer is on in the report alone, or not on the threads."""
    # That the report tells of it is a test of test_lockdown.py.
    if layer in absent_layers():
        pytest.skip(f"this kernel has no {layer}")
    if words[0] == N["kill"] and landlock_abi() < LANDLOCK_SIGNALS:
        pytest.skip(f"this kernel's Landlock {landlock_abi()} knows no signals")
    attack = Attack("layer", "", ("call", *map(str, words)), thread)
    outcome = run_attack(attack, accept=ACCEPT_FILTER, preexec_fn=NO_FILTER)
    assert outcome.returned == expected, outcome


@pytest.mark.parametrize("thread", [MAIN, WORKER])
def test_inherited_descriptor_is_closed(thread: int) -> None:
    """If this fails, an intruder can use what the parent left open; the second half shows that it
    was open, on a kernel where nothing closes it."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    inherited = fcntl.fcntl(nothing, fcntl.F_DUPFD, 200)  # behind the park pipes
    attack = Attack("layer", "", ("call", str(N["read"]), str(inherited), "@arena", "1"), thread)
    unclosed = lacking(
        Refused("seccomp", errno.ENOSYS),
        Refused("close_range", errno.ENOSYS),
        Refused("close", errno.EPERM),
    )
    try:
        if "descriptors" not in absent_layers():
            held = run_attack(
                attack, accept=ACCEPT_FILTER, preexec_fn=NO_FILTER, pass_fds=[inherited]
            )
            assert held.returned == -errno.EBADF
        through = run_attack(attack, accept=0x3FF, preexec_fn=unclosed, pass_fds=[inherited])
        assert through.returned == 0
    finally:
        os.close(inherited)
        os.close(nothing)


def test_layers_taken_away_let_the_attack_through() -> None:
    """If this fails, the test above would pass without any layer, and shows nothing."""
    gone = lacking(
        Refused("seccomp", errno.ENOSYS),
        Refused("mseal", errno.ENOSYS),
        Refused("landlock_create_ruleset", errno.ENOSYS),
        Refused("prctl", errno.EINVAL, 65),
    )
    for words, expected in (
        ((N["mprotect"], "@weights", 4096, 3), 0),
        ((N["mprotect"], "@arena", 4096, 7), 0),
        ((N["openat"], AT_FDCWD, ":/etc/passwd", 0), 9),
        ((N["kill"], os.getpid(), 0), 0),
    ):
        attack = Attack("layer", "", ("call", *map(str, words)))
        assert run_attack(attack, accept=0x3FF, preexec_fn=gone).returned == expected
