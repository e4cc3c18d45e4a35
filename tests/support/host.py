"""What this machine has, asked of its kernel and its PATH: nothing here comes from the engine.

A kernel may lack layers of the lock-down (docs/threat_model.md). Tests then expect precisely those
to be told as missing, and all others to hold.
"""

import ctypes
import functools
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from bitnet.seal.toolchain import host_arch
from tests.support.engine import PROTECTIONS

__all__ = [
    "absent_layers",
    "absent_mask",
    "addresses_change",
    "clock_needs_call",
    "fixed_addresses",
    "installed",
    "landlock_abi",
    "missing_rights",
    "root_only",
]

# The bits of the rights that tests use of root. Source: linux/capability.h.
_RIGHTS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "SYS_CHROOT": 18, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_NICE": 23, "SYS_RESOURCE": 24,
}  # fmt: skip
# The limits that tests set higher than they may be.
_RAISED = (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK)

_PR_GET_MDWE = 66
# Numbers that all architectures share, but for the older seccomp.
_MSEAL, _LANDLOCK_CREATE_RULESET, _CLOSE_RANGE = 462, 444, 436
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_LANDLOCK_VERSION = 1
_SECCOMP_GET_ACTION_AVAIL = 2
_KILL_PROCESS = 0x80000000
_ADDR_NO_RANDOMIZE = 0x0040000
_NO_DESCRIPTOR = 0xFFFFFFFF


def missing_rights(*names: str) -> tuple[str, ...]:
    """Returns those of these rights that this process lacks: root of a container has not all.

    Source: capabilities(7), proc_pid_status(5).
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    assert found is not None
    held = int(found[1], 16)
    return tuple(f"CAP_{name}" for name in names if not held >> _RIGHTS[name] & 1)


def _missing_of_root() -> tuple[str, ...]:
    """Returns what the users of `root_only` need and this process lacks."""
    rights = set(_RIGHTS)
    core, lock = (resource.getrlimit(limit)[1] for limit in _RAISED)
    if core == resource.RLIM_INFINITY and (lock == resource.RLIM_INFINITY or lock >= 8 << 20):
        rights.remove("SYS_RESOURCE")  # they are high enough as they are
    missing = [] if os.geteuid() == 0 else ["user 0"]
    # What a right of another namespace is worth: user_namespaces(7).
    users = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    missing += [] if users == ["0", "0", "4294967295"] else ["the first user namespace"]
    return (*missing, *missing_rights(*sorted(rights)))


root_only = pytest.mark.skipif(
    bool(_missing_of_root()),
    reason="becomes another user, looks into a process that only root may look into, or mounts; "
    f"missing here: {', '.join(_missing_of_root())}",
)


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
    command = [installed("setarch"), "--addr-no-randomize", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def addresses_change() -> bool:
    """Returns whether the kernel gives a program other addresses on every run.

    Source: Documentation/admin-guide/sysctl/kernel.rst and personality(2) of Linux.
    """
    fixed = Path("/proc/sys/kernel/randomize_va_space").read_text(encoding="ascii").strip() == "0"
    personality = int(Path("/proc/self/personality").read_text(encoding="ascii"), 16)
    return not fixed and not personality & _ADDR_NO_RANDOMIZE


def installed(name: str) -> str:
    """Returns the path of a program that tests cannot do without; they fail where it is missing."""
    path = shutil.which(name)
    assert path is not None, f"{name} is not installed; `make setup` names what the tests need"
    return path
