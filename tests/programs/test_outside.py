"""A run looked at by others: the same user, a crash, a forced dump, the swapper.

Each look is made twice: at a run with all layers, where it must find nothing, and at one on a
kernel that lacks the layer, where it must find what it looks for.
"""

import ctypes
import errno
import functools
import os
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bitnet.seal.toolchain import host_arch
from tests.support.attacks import system_calls
from tests.support.engine import DEMO_TOKENIZER, demo_model, open_engine
from tests.support.host import absent_layers, root_only
from tests.support.infer import ANSWER, sealed_program, write_config
from tests.support.lockdown import Paused, become_nobody, mappings_of, paused_run, public_folder
from tests.support.refused_calls import Refused, lacking
from tests.support.status_table import status_rows

pytestmark = root_only

# Of the model's training, so that the answer is not empty, with a mark that stands nowhere else.
MARK = b"zqxjkvbp-7f3a91-mark-of-this-prompt"
PROMPT = b"show failed systemd units " + MARK
NO_DUMPABLE = Refused("prctl", errno.EPERM, 4)
NO_CORE_LIMIT = Refused("prlimit64", errno.EPERM)
NO_LANDLOCK = Refused("landlock_create_ruleset", errno.ENOSYS)
NO_DONT_DUMP = Refused("madvise", errno.EINVAL)
NO_LOCK = Refused("mlock", errno.ENOMEM)
EXIT_GROUP = str(system_calls(host_arch())["exit_group"])


@functools.cache
def ids_of_mark() -> bytes:
    """The mark as the run keeps it when its text has been overwritten: token ids."""
    with open_engine(demo_model(), tokenizer=DEMO_TOKENIZER) as engine:
        ids = engine.tokenize(PROMPT)[-12:-1]  # the last one may join what follows
        assert engine.detokenize(ids) in MARK
    return struct.pack(f"<{len(ids)}I", *ids)


def holds_prompt(memory: bytes) -> bool:
    return MARK in memory or ids_of_mark() in memory


def weights_sample() -> bytes:
    """Bytes of the model that stand nowhere else."""
    data = demo_model().read_bytes()
    sample = data[len(data) // 2 : len(data) // 2 + 64]
    assert data.count(sample) == 1
    assert len(set(sample)) > 10
    return sample


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as folder:
        folder.chmod(0o777)
        yield folder


def start(
    folder: Path,
    *gone: Refused,
    accept: tuple[str, ...] = (),
    nobody: bool = False,
    verify: str = "full",
) -> AbstractContextManager[Paused]:
    """Holds a run of the prompt still, on a kernel without what `gone` names."""
    # Another user may lock 8 MiB, by the kernel's default.
    lock = "arena" if nobody else "all"
    accepted = [*accept, *absent_layers()]
    config = write_config(folder, accept_missing=accepted, threads=2, lock=lock, verify=verify)
    filter_first = lacking(*gone) if gone else None

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.chdir(folder)
        if filter_first is not None:
            filter_first()
        if nobody:
            become_nobody()

    program = folder / "bitnet-infer"
    return paused_run(config, program=program, question=PROMPT, preexec_fn=prepare)


# The same user.

LOOK = """
import ctypes, os, sys
pid = int(sys.argv[1])
for name in ("mem", "maps", "environ", "fd"):
    try:
        path = f"/proc/{pid}/{name}"
        os.listdir(path) if name == "fd" else open(path, "rb").close()
        print(name, 0)
    except OSError as error:
        print(name, error.errno)
libc = ctypes.CDLL(None, use_errno=True)
class Part(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t))
buffer = ctypes.create_string_buffer(16)
here, there = Part(ctypes.addressof(buffer), 16), Part(int(sys.argv[2]), 16)
result = libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
print("process_vm_readv", ctypes.get_errno() if result < 0 else 0)
result = libc.ptrace(16, pid, None, None)
print("ptrace", ctypes.get_errno() if result < 0 else 0)
"""


def look_as_same_user(paused: Paused) -> dict[str, int]:
    place = max(mappings_of(paused.proc), key=lambda each: "rw" in each.permissions).begin
    result = subprocess.run(
        ["/usr/bin/python3", "-c", LOOK, str(paused.process.pid), str(place)],
        capture_output=True, text=True, timeout=30, check=True, preexec_fn=become_nobody,
    )  # fmt: skip
    return {name: int(code) for name, code in map(str.split, result.stdout.splitlines())}


def test_same_user_cannot_look_inside(folder: Path) -> None:
    """If this fails, any program of the same user reads prompts out of the memory."""
    with start(folder, nobody=True) as paused:
        seen = look_as_same_user(paused)
        paused.finish()
    assert seen == {
        "mem": errno.EACCES, "maps": errno.EACCES, "environ": errno.EACCES, "fd": errno.EACCES,
        "process_vm_readv": errno.EPERM, "ptrace": errno.EPERM,
    }  # fmt: skip
    with start(folder, NO_DUMPABLE, accept=("not_dumpable",), nobody=True) as paused:
        seen = look_as_same_user(paused)
    assert {seen[name] for name in ("maps", "environ", "fd")} == {0}, seen
    # A kernel that refuses the rest for a reason of its own proves nothing.
    if yama_scope() > 0:
        pytest.skip(f"Yama keeps the same user out of memory too: ptrace_scope is {yama_scope()}")
    assert set(seen.values()) == {0}, seen


def yama_scope() -> int:
    """How far Yama restricts ptrace, 0 without it: Documentation/admin-guide/LSM/Yama.rst."""
    path = Path("/proc/sys/kernel/yama/ptrace_scope")
    return int(path.read_text(encoding="ascii")) if path.exists() else 0


def test_executable_that_is_not_readable_hides_the_run_from_its_first_instruction(
    folder: Path,
) -> None:
    """If this fails, docs/threat_model.md gives advice that does not close the time before main."""
    (folder / "bitnet-infer").chmod(0o711)  # of root: another user runs it without reading it
    gone, accept = (NO_DUMPABLE,), ("not_dumpable",)
    with start(folder, *gone, accept=accept, nobody=True, verify="off") as paused:
        seen = look_as_same_user(paused)
        paused.finish()
    assert set(seen.values()) <= {errno.EACCES, errno.EPERM}, seen


# A crash.


def crash(folder: Path, *gone: Refused, accept: tuple[str, ...] = ()) -> tuple[bool, list[bytes]]:
    """Ends a held run by SIGSEGV; returns whether the kernel says that it dumped, and the files."""
    with start(folder, *gone, accept=accept, nobody=True) as paused:
        # Everything, pages of files too.
        if gone:
            (paused.proc / "coredump_filter").write_text("0xff")
        paused.process.send_signal(signal.SIGSEGV)
        _, status = os.waitpid(paused.process.pid, 0)
        paused.process.returncode = os.waitstatus_to_exitcode(status)
        assert paused.process.returncode == -signal.SIGSEGV
    files = [path for path in folder.iterdir() if path.name.startswith("core")]
    cores = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    return os.WCOREDUMP(status), cores


def core_pattern() -> str:
    return Path("/proc/sys/kernel/core_pattern").read_text().strip()


def takes_cores() -> bool:
    """Whether the kernel writes a core into the folder in which the process runs."""
    return core_pattern() in ("core", "core.%p")


KEEPERS = {"not_dumpable": NO_DUMPABLE, "core_limit": NO_CORE_LIMIT, "landlock": NO_LANDLOCK}


def test_crash_leaves_no_core(folder: Path) -> None:
    """If this fails, a crash writes prompt and weights to the disk."""
    assert crash(folder) == (False, [])
    # Any one of three layers is enough: Landlock lets the kernel write no file for the process. A
    # program that the kernel gives cores to is under neither the limit nor Landlock (core(5)).
    piped = core_pattern().startswith("|")
    for kept in ("not_dumpable",) if piped else KEEPERS:
        if kept in absent_layers():
            continue
        others = [name for name in KEEPERS if name != kept]
        gone = (KEEPERS[name] for name in others)
        assert crash(folder, *gone, accept=tuple(others)) == (False, [])
    # With none of them there is a core.
    dumped, _ = crash(folder, *KEEPERS.values(), accept=tuple(KEEPERS))
    if not dumped and not takes_cores():
        pytest.skip(f"no core at all, whatever the layers: `{core_pattern()}` does not take it")
    assert dumped


def test_core_of_a_crash_holds_neither_prompt_nor_weights(folder: Path) -> None:
    """If this fails, the one layer that a dump of root meets leaves something in."""
    if not takes_cores():
        pytest.skip(f"this kernel gives cores to `{core_pattern()}`, where the test cannot look")
    _, (core,) = crash(folder, *KEEPERS.values(), accept=tuple(KEEPERS))
    assert not holds_prompt(core)
    assert weights_sample() not in core
    gone = (*KEEPERS.values(), NO_DONT_DUMP)
    _, (core,) = crash(folder, *gone, accept=(*KEEPERS, "dont_dump"))
    assert holds_prompt(core)
    assert weights_sample() in core


# A forced dump, by root.


def forced_dump(paused: Paused, folder: Path) -> bytes:
    (paused.proc / "coredump_filter").write_text("0xff")
    subprocess.run(
        ["gcore", "-o", folder / "forced", str(paused.process.pid)], capture_output=True,
        timeout=60, check=True,
    )  # fmt: skip
    return (folder / f"forced.{paused.process.pid}").read_bytes()


def test_forced_dump_holds_neither_prompt_nor_weights(folder: Path) -> None:
    """If this fails, a dump that an administrator takes for another reason gives prompts away."""
    with start(folder) as paused:
        dump = forced_dump(paused, folder)
        paused.finish()
    assert not holds_prompt(dump)
    assert weights_sample() not in dump
    with start(folder, NO_DONT_DUMP, accept=("dont_dump",)) as paused:
        dump = forced_dump(paused, folder)
    assert holds_prompt(dump)
    assert weights_sample() in dump


# The swapper.

_PIDFD_OPEN, _PROCESS_MADVISE, _MADV_PAGEOUT = 434, 440, 21


class _Part(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


def page_out(paused: Paused) -> dict[str, int]:
    """Asks the kernel to reclaim each mapping of the process; returns the errno of each."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_PIDFD_OPEN, paused.process.pid, 0)
    assert descriptor >= 0
    answers = {}
    for each in mappings_of(paused.proc):
        if each.permissions == "---p" or each.path.startswith("[v"):
            continue
        part = _Part(each.begin, each.end - each.begin)
        result = libc.syscall(_PROCESS_MADVISE, descriptor, ctypes.byref(part), 1, _MADV_PAGEOUT, 0)
        name = f"{each.begin:x} {each.permissions} {each.path}"
        answers[name] = ctypes.get_errno() if result < 0 else 0
    os.close(descriptor)
    return answers


def test_no_page_can_be_swapped_out(folder: Path) -> None:
    """If this fails, the kernel may write pages of a run to swap."""
    with start(folder) as paused:
        answers = page_out(paused)
        assert set(answers.values()) == {errno.EINVAL}, answers
        assert {each.fields.get("Swap", 0) for each in mappings_of(paused.proc)} == {0}
        paused.finish()
    with start(folder, NO_LOCK, accept=("memory_lock",)) as paused:
        answers = page_out(paused)
    assert set(answers.values()) == {0}, answers


# The end.


@pytest.mark.parametrize("end", ["answer", "error"])
def test_memory_is_wiped_before_the_process_ends(folder: Path, end: str) -> None:
    """If this fails, a prompt stays in pages that the process gives back."""
    failing = end == "error"  # standard output takes nothing: the run ends at its first token
    config = write_config(folder)
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=exit_group"]
    # Not on the way in: strace holds the process before the call is made.
    trace += ["-e", "inject=exit_group:delay_enter=10s"]
    command = [*trace, folder / "bitnet-infer", "--config", config, "--seed", "1"]
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=full if failing else subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
    told = process.stderr if failing else process.stdout
    assert process.stdin is not None
    assert told is not None
    process.stdin.write(PROMPT)
    process.stdin.close()
    process.stdin = None
    assert told.readline().startswith(b"error: " if failing else b"")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    proc = Path(f"/proc/{children[0]}")
    deadline = time.monotonic() + 120
    while (proc / "syscall").read_text().split()[0] != EXIT_GROUP:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    arena = max(
        (each for each in mappings_of(proc) if each.permissions == "rw-p"),
        key=lambda each: each.end - each.begin,
    )
    found = []
    with (proc / "mem").open("rb") as memory:
        for each in mappings_of(proc):
            if each.permissions == "---p" or each.path.startswith("[v"):
                continue
            memory.seek(each.begin)
            data = memory.read(each.end - each.begin)
            assert len(data) == each.end - each.begin  # less of a process that has ended
            if each == arena:
                assert not data.strip(b"\0")
            found += [each] if holds_prompt(data) else []
    assert found == []
    process.communicate(timeout=120)
    assert process.returncode == (status_rows()["kWriteFailed"].exit_code if failing else 0)


def test_hold_is_a_real_run(folder: Path) -> None:
    """If this fails, what is looked at above is not a run."""
    config = write_config(folder)
    with paused_run(config, program=sealed_program()) as paused:
        assert paused.finish() == ANSWER
