"""What this machine has, asked of its kernel and its PATH: nothing here comes from the engine.

A kernel may lack layers of the lock-down (docs/threat_model.md). Tests then expect precisely those
to be told as missing, and all others to hold.
"""

import ctypes
import functools
import os
import shutil
from pathlib import Path

import pytest

from bitnet.seal.toolchain import host_arch
from tests.support.engine import PROTECTIONS

__all__ = [
    "absent_layers",
    "absent_mask",
    "clock_needs_call",
    "fixed_addresses",
    "installed",
    "landlock_abi",
    "root_only",
]

root_only = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="becomes another user, or looks into a process that only root may look into",
)

_PR_GET_MDWE = 66
# Numbers that all architectures share, but for the older seccomp.
_MSEAL, _LANDLOCK_CREATE_RULESET, _CLOSE_RANGE = 462, 444, 436
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_LANDLOCK_VERSION = 1
_SECCOMP_GET_ACTION_AVAIL = 2
_KILL_PROCESS = 0x80000000
_ADDR_NO_RANDOMIZE = 0x0040000
_NO_DESCRIPTOR = 0xFFFFFFFF


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """Returns the version of Landlock, 0 for none. Source: landlock_create_ruleset(2)."""
    return max(0, int(_libc().syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)))


@functools.cache
def absent_layers() -> tuple[str, ...]:
    """Returns the layers of the lock-down that this kernel lacks, in the order of PROTECTIONS.

    Source: mseal(2), landlock(7), close_range(2), seccomp(2), PR_GET_MDWE(2const). The other
    layers are older than any kernel that the tests could start on.
    """
    libc = _libc()
    action = ctypes.c_uint32(_KILL_PROCESS)
    seccomp = (_SECCOMP[host_arch()], _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(action))
    present = {
        "mdwe": libc.prctl(_PR_GET_MDWE, 0, 0, 0, 0) >= 0,
        # No byte is sealed.
        "mseal": libc.syscall(_MSEAL, None, ctypes.c_size_t(0), ctypes.c_ulong(0)) == 0,
        "landlock": landlock_abi() > 0,
        # The last number that there could be, which is none.
        "descriptors": libc.syscall(_CLOSE_RANGE, _NO_DESCRIPTOR, _NO_DESCRIPTOR, 0) == 0,
        "filter": libc.syscall(*seccomp) == 0,
    }
    return tuple(name for name in PROTECTIONS if not present.get(name, True))


def absent_mask() -> int:
    """Returns `absent_layers` as the bits of `accept_missing`."""
    return sum(1 << PROTECTIONS.index(name) for name in absent_layers())


def clock_needs_call() -> bool | None:
    """Returns whether reading the clock takes a system call here; None where it is not known.

    Source: arch/x86/kernel/tsc.c, kvmclock.c and drivers/clocksource/arm_arch_timer.c of Linux name
    the sources that the vDSO reads, hpet.c and acpi_pm.c those that it cannot.
    """
    path = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    name = path.read_text(encoding="ascii").strip() if path.exists() else ""
    served = dict.fromkeys(("tsc", "kvm-clock", "arch_sys_counter"), False)
    return (served | dict.fromkeys(("hpet", "acpi_pm", "jiffies"), True)).get(name)


def fixed_addresses() -> bool:
    """Returns whether a process may ask for the same addresses on every run: some sandboxes
    refuse it."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _libc().personality(_ADDR_NO_RANDOMIZE) >= 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


def installed(name: str) -> str:
    """Returns the path of a program that tests cannot do without; they fail where it is missing."""
    path = shutil.which(name)
    assert path is not None, f"{name} is not installed; `make setup` names what the tests need"
    return path
