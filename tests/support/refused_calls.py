"""A kernel that lacks something: system calls that fail with a chosen error, for a child process.

The child gets a filter of its own before it starts; ours is written against the kernel's
documentation (seccomp(2), Documentation/userspace-api/seccomp_filter.rst), not against the
engine's.
"""

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass

from bitnet.seal.toolchain import host_arch
from tests.support.attacks import system_calls

__all__ = ["Refused", "lacking"]

_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ANY = None


@dataclass(frozen=True)
class Refused:
    """A system call, or one with this first argument, that fails with `errno`."""

    name: str
    errno: int
    first_argument: int | None = _ANY


def _program(rules: tuple[Refused, ...]) -> bytes:
    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("<HBBI", code, if_true, if_false, value)

    numbers = system_calls(host_arch())
    code = b""
    for rule in rules:
        code += step(_LOAD, 0)
        if rule.first_argument is _ANY:
            code += step(_JUMP_EQUAL, numbers[rule.name], 0, 1)
        else:
            code += step(_JUMP_EQUAL, numbers[rule.name], 0, 3)
            code += step(_LOAD, 16) + step(_JUMP_EQUAL, rule.first_argument, 0, 1)
        code += step(_RETURN, _ERRNO | rule.errno)
    return code + step(_RETURN, _ALLOW)


def lacking(*rules: Refused) -> Callable[[], None]:
    """Returns what `subprocess` may run in a child so that these calls fail there."""
    code = _program(rules)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    header = ctypes.create_string_buffer(program, len(program))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    place = ctypes.c_void_p(ctypes.addressof(header))

    def install() -> None:
        assert buffer and header  # alive as long as this function
        # A process with CAP_SYS_ADMIN needs no PR_SET_NO_NEW_PRIVS, and some rules refuse it.
        if prctl(_PR_SET_SECCOMP, _MODE_FILTER, place) != 0:
            prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if prctl(_PR_SET_SECCOMP, _MODE_FILTER, place) != 0:
                raise OSError(ctypes.get_errno(), "the kernel takes no filter")

    return install
