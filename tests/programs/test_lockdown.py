"""The lock-down of bitnet-infer: it holds in a real run, and without it there is none."""

import errno
import json
import os
import re
import resource
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import PROTECTIONS, demo_model
from tests.support.host import absent_layers, clock_needs_call, landlock_abi, root_only
from tests.support.infer import (
    ANSWER,
    QUESTION,
    Result,
    ask,
    assert_refused,
    missing_layers,
    sealed_program,
    traced,
    unsealed_program,
    write_config,
)
from tests.support.lockdown import become_nobody, mappings_of, paused_run, public_folder
from tests.support.refused_calls import Refused, lacking

# Of this kernel; what it lacks must be told and accepted, everything else must be on.
ABSENT = absent_layers()
STATES = dict.fromkeys(PROTECTIONS, "on") | dict.fromkeys(ABSENT, "accepted")
# How a kernel without a layer, or a limit, shows itself: what fails, and what is told.
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 4, 38, 65
SECCOMP_GET_ACTION_AVAIL = 2
PT_GNU_RELRO = bytes.fromhex("52e57464")
LACKS = {
    "memory_lock": (Refused("mlock", errno.ENOMEM), "kProtectionMemory"),
    "dont_dump": (Refused("madvise", errno.EINVAL), "kProtectionKernel"),
    "not_dumpable": (Refused("prctl", errno.EPERM, PR_SET_DUMPABLE), "kProtectionRefused"),
    "core_limit": (Refused("prlimit64", errno.EPERM), "kProtectionRefused"),
    "no_new_privileges": (Refused("prctl", errno.EINVAL, PR_SET_NO_NEW_PRIVS), "kProtectionKernel"),
    "mdwe": (Refused("prctl", errno.EINVAL, PR_SET_MDWE), "kProtectionKernel"),
    "mseal": (Refused("mseal", errno.ENOSYS), "kProtectionKernel"),
    "landlock": (Refused("landlock_create_ruleset", errno.EOPNOTSUPP), "kProtectionKernel"),
    "descriptors": (Refused("close_range", errno.ENOSYS), "kProtectionKernel"),
    "filter": (Refused("seccomp", errno.EINVAL), "kProtectionKernel"),
}


def run(config: Path, *arguments: str, seed: bool = True, **options: Any) -> Result:
    command = [sealed_program(), "--config", config, *(["--seed", "42"] if seed else [])]
    return subprocess.run(
        [*command, *arguments], input=QUESTION, capture_output=True, timeout=60, check=False,
        env={}, **options,
    )  # fmt: skip


def layers_of(result: Result) -> dict[str, dict[str, Any]]:
    return dict(json.loads(result.stdout)["layers"])


# Fails closed.


def test_every_layer_has_a_test_of_its_absence() -> None:
    """If this fails, a layer may fail open and nobody would see it here."""
    assert tuple(LACKS) == PROTECTIONS


@pytest.mark.parametrize("layer", PROTECTIONS)
def test_layer_missing_stops_the_start_unless_accepted(tmp_path: Path, layer: str) -> None:
    """If this fails, a run starts without a protection that nobody gave up, or cannot without."""
    rule, status = LACKS[layer]
    lacks = lacking(rule)
    given_up = [name for name in ABSENT if name != layer]
    refused = run(write_config(tmp_path, accept_missing=given_up, threads=2), preexec_fn=lacks)
    assert_refused(refused, status, layer, 0, rule.errno)
    others = [name for name in PROTECTIONS if name != layer]
    refused = run(write_config(tmp_path, accept_missing=others, threads=2), preexec_fn=lacks)
    assert_refused(refused, status, layer, 0, rule.errno)
    config = write_config(tmp_path, accept_missing=[layer, *given_up], threads=2)
    accepted = run(config, preexec_fn=lacks)
    assert (accepted.stdout, accepted.stderr, accepted.returncode) == (ANSWER, b"", 0)
    report = run(config, "--hardening-report", "--json", seed=False, preexec_fn=lacks)
    states = {name: row["state"] for name, row in layers_of(report).items()}
    assert states == STATES | {layer: "accepted"}
    assert layers_of(report)[layer]["errno"] == rule.errno
    assert report.returncode == 0


def test_kernel_that_kills_only_the_thread_has_no_filter(tmp_path: Path) -> None:
    """If this fails, before Linux 4.14 the report tells of a filter that ends one thread alone."""
    lacks = lacking(Refused("seccomp", errno.EINVAL, SECCOMP_GET_ACTION_AVAIL))
    refused = run(write_config(tmp_path), preexec_fn=lacks)
    assert_refused(refused, "kProtectionKernel", "filter", 0, errno.EINVAL)


@pytest.mark.parametrize("reason", [errno.EPERM, errno.ENOSYS])
def test_stack_that_cannot_be_found_is_not_locked(tmp_path: Path, reason: int) -> None:
    """If this fails, under a filter that refuses the C library's question for the end of the stack
    a part of it can reach swap, and the layer is said to be on."""
    lacks = lacking(Refused("mremap", reason))
    config = write_config(tmp_path, accept_missing=["dont_dump", *ABSENT])
    refused = run(config, preexec_fn=lacks)
    assert_refused(refused, "kProtectionMemory", "memory_lock", 0, errno.ENOMEM)
    config = write_config(tmp_path, accept_missing=["memory_lock", "dont_dump", *ABSENT])
    report = run(config, "--hardening-report", "--json", seed=False, preexec_fn=lacks)
    states = {name: row["state"] for name, row in layers_of(report).items()}
    assert states == STATES | {"memory_lock": "accepted", "dont_dump": "accepted"}


def test_descriptors_accepted_and_inherited_do_not_shift_the_pipes(tmp_path: Path) -> None:
    """If this fails, a kernel without close_range cannot run under a careless parent, and the error
    blames another layer."""
    lacks = lacking(LACKS["descriptors"][0])
    config = write_config(tmp_path, accept_missing=["descriptors", *ABSENT], threads=3)
    inherited = [os.open(os.devnull, os.O_RDONLY) for _ in range(9)]
    result = run(config, preexec_fn=lacks, pass_fds=inherited[1::2])
    assert (result.stdout, result.stderr, result.returncode) == (ANSWER, b"", 0)
    for descriptor in inherited:
        os.close(descriptor)


@pytest.mark.parametrize(("failures", "starts"), [("2", True), ("2+", False)])
def test_filter_waits_for_a_thread_that_is_ending(
    tmp_path: Path, failures: str, starts: bool
) -> None:
    """If this fails, before Linux 6.11 a start may fail by chance; or a run goes on unfiltered."""
    # The second call of the main thread names a thread that it could not bring along.
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=seccomp"]
    trace += ["-e", f"inject=seccomp:retval=77:when={failures}"]
    result = ask(write_config(tmp_path, threads=2), wrapper=trace)
    if starts:
        assert (result.stdout, result.stderr, result.returncode) == (ANSWER, b"", 0)
    else:
        assert_refused(result, "kProtectionRefused", "filter", 0, errno.ESRCH)


def test_relocated_memory_that_ends_within_a_page_stops_the_start(tmp_path: Path) -> None:
    """If this fails, on a kernel with larger pages than the linker took relocated pointers stay
    writable, and nobody is told."""
    content = bytearray(unsealed_program().read_bytes())
    table, count = (
        struct.unpack_from("<Q", content, 32)[0],
        struct.unpack_from("<H", content, 56)[0],
    )
    places = range(table, table + 56 * count, 56)
    relro = next(at for at in places if content[at : at + 4] == PT_GNU_RELRO)
    memory_bytes = struct.unpack_from("<Q", content, relro + 40)[0]
    struct.pack_into("<Q", content, relro + 40, memory_bytes - 16)
    program = tmp_path / "bitnet-infer"
    program.write_bytes(content)
    program.chmod(0o755)
    result = ask(write_config(tmp_path, model=str(demo_model())), program=program)
    assert_refused(result, "kSystem", "page size", 0, errno.EINVAL)


def test_accepting_a_layer_that_is_there_puts_it_on(tmp_path: Path) -> None:
    """If this fails, `accept_missing` is a switch that turns protections off."""
    config = write_config(tmp_path, accept_missing=list(PROTECTIONS))
    report = run(config, "--hardening-report", "--json", seed=False)
    assert {name: row["state"] for name, row in layers_of(report).items()} == STATES


def test_report_of_a_bare_kernel_names_every_layer(tmp_path: Path) -> None:
    """If this fails, an operator learns of what is missing one start at a time."""
    lacks = lacking(*(rule for rule, _ in LACKS.values()))
    config = write_config(tmp_path, accept_missing=["mseal"])
    report = run(config, "--hardening-report", "--json", seed=False, preexec_fn=lacks)
    rows = layers_of(report)
    states = {name: row["state"] for name, row in rows.items()}
    assert states == dict.fromkeys(PROTECTIONS, "missing") | {"mseal": "accepted"}
    assert {name: row["errno"] for name, row in rows.items()} == {
        name: rule.errno for name, (rule, _) in LACKS.items()
    }
    assert all(row["remedy"] for row in rows.values())
    assert json.loads(report.stdout)["starts"] is False
    assert (report.stderr, report.returncode) == (b"", 5)
    text = run(config, "--hardening-report", seed=False, preexec_fn=lacks)
    assert text.returncode == 5
    assert "mseal               accepted  errno 38; use Linux 6.10 or newer\n" in (
        text.stdout.decode()
    )


@root_only
def test_limit_on_locked_memory_stops_an_unprivileged_start() -> None:
    """If this fails, a user without the limit runs with memory that can be swapped, unknowingly."""
    with public_folder() as folder:

        def run_within(limit: int, lock: str, accept: list[str]) -> Result:
            def limited() -> None:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
                become_nobody()

            config = write_config(folder, accept_missing=[*accept, *ABSENT], lock=lock)
            command = [folder / "bitnet-infer", "--config", config, "--seed", "42"]
            return subprocess.run(
                command, input=QUESTION, capture_output=True, timeout=60, check=False,
                preexec_fn=limited,
            )  # fmt: skip

        refusal = ("kProtectionMemory", "memory_lock", 0, errno.ENOMEM)
        for lock in ("all", "arena"):
            assert_refused(run_within(1 << 20, lock, []), *refusal)
            assert run_within(1 << 20, lock, ["memory_lock"]).stdout == ANSWER
        # Enough for the arena, the stacks and the data, not for the weights.
        assert run_within(6 << 20, "arena", []).stdout == ANSWER
        assert_refused(run_within(6 << 20, "all", []), *refusal)
        assert run_within(8 << 20, "all", []).stdout == ANSWER


# The report.


def test_report_is_a_table_of_every_layer(tmp_path: Path) -> None:
    """If this fails, an operator cannot see how a run would be protected here."""
    assert missing_layers() == ABSENT
    report = run(write_config(tmp_path, threads=2), "--hardening-report", seed=False)
    lines = report.stdout.decode("ascii").splitlines()
    assert [line.split()[:2] for line in lines] == [list(pair) for pair in STATES.items()]
    told = rf"landlock +on +abi {landlock_abi()}" if landlock_abi() else "landlock +accepted .*"
    assert re.search(rf"^{told}$", report.stdout.decode(), re.MULTILINE)
    assert re.search(r"^descriptors +on +open 7$", report.stdout.decode(), re.MULTILINE)
    calls = {False: "3", True: "4", None: "[34]"}[clock_needs_call()]
    assert re.search(rf"^filter +on +calls {calls}$", report.stdout.decode(), re.MULTILINE)
    assert (report.stderr, report.returncode) == (b"", 0)


@root_only
def test_report_counts_what_the_kernel_counts(tmp_path: Path) -> None:
    """If this fails, the report tells of memory that is not locked."""
    for lock in ("all", "arena"):
        config = write_config(tmp_path, threads=3, lock=lock)
        report = run(config, "--hardening-report", "--json", seed=False)
        told = layers_of(report)["memory_lock"]["bytes"]
        with paused_run(config) as paused:
            status = (paused.proc / "status").read_text()
        found = re.search(r"^VmLck:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        locked = 1024 * int(found[1])
        # Regions end within pages.
        assert told <= locked <= told + 20 * 4096


def test_report_options_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """If this fails, an option is ignored silently."""
    config = write_config(tmp_path)
    assert_refused(run(config, "--json"), "kOptionMissing", "--hardening-report")
    assert_refused(run(config, seed=False), "kOptionMissing", "--seed")
    assert ask(None, "--hardening-report", seed=None).returncode == 2


# A locked process, looked at from outside.


@root_only
@pytest.mark.parametrize("place", ["sealed", "file"])
@pytest.mark.parametrize("weights", ["mapped", "resident"])
@pytest.mark.parametrize("lock", ["all", "arena"])
def test_memory_of_a_run_is_locked_sealed_and_not_dumped(
    tmp_path: Path, lock: str, weights: str, place: str
) -> None:
    """If this fails, pages of a prompt can reach swap or a dump, or weights can be remapped."""
    sealed = place == "sealed"
    model = "sealed" if sealed else str(demo_model())
    config = write_config(tmp_path, threads=3, lock=lock, weights=weights, model=model)
    program = sealed_program() if sealed else unsealed_program()
    with paused_run(config, program=program) as paused:
        mappings = mappings_of(paused.proc)
        assert paused.finish() == ANSWER
    own = [each for each in mappings if not each.path.startswith(("[v", "[uprobes"))]
    guards = [each for each in own if each.permissions == "---p"]
    assert len(guards) == 2  # of the workers' stacks
    model_bytes = demo_model().stat().st_size
    holders = [
        each for each in own
        if each.permissions in ("r--p", "r--s") and each.end - each.begin >= model_bytes
    ]  # fmt: skip
    assert len(holders) == (2 if sealed and weights == "resident" else 1)
    read = [each for each in holders if bool(each.path) == (weights == "mapped")]
    assert len(read) == 1
    for each in own:
        if each in guards:
            continue
        assert "dd" in each.flags, each
        writable = "w" in each.permissions
        copied = each in holders and each not in read  # of a sealed one the segment stays
        if writable or (lock == "all" and not copied):
            assert "lo" in each.flags, each
            assert each.fields["Size"] == each.fields["Rss"], each
        assert "x" not in each.permissions or not writable
    assert ("lo" in read[0].flags) == (lock == "all")
    assert ("sl" in read[0].flags) == ("mseal" not in ABSENT)


@pytest.mark.parametrize("place", ["sealed", "file"])
@root_only
def test_relocated_pointers_of_a_run_are_read_only(tmp_path: Path, place: str) -> None:
    """If this fails, a flaw can turn the pointers of the program to other code: the C library of a
    static program leaves them writable."""
    sealed = place == "sealed"
    program = sealed_program() if sealed else unsealed_program()
    config = write_config(tmp_path, model="sealed" if sealed else str(demo_model()))
    with paused_run(config, program=program) as paused:
        rows = [row.permissions for row in mappings_of(paused.proc) if row.path == str(program)]
    # Headers and constants, code, relocated pointers, variables; the model.
    assert rows == ["r--p", "r-xp", "r--p", "rw-p", *(["r--p"] if sealed else [])]


@root_only
def test_process_is_bound_as_it_says(tmp_path: Path) -> None:
    """If this fails, a layer is claimed and not there."""
    inherited = [os.open("/dev/null", os.O_RDONLY) for _ in range(18)]
    options = {"pass_fds": inherited[::2], "close_fds": True}  # nine, with gaps
    with paused_run(write_config(tmp_path, threads=3), **options) as paused:
        tasks = list((paused.proc / "task").iterdir())
        assert len(tasks) == 3
        for task in tasks:
            status = dict(
                re.findall(r"^(\w+):\s*(.*)$", (task / "status").read_text(), re.MULTILINE)
            )
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
            assert status["SigCgt"].strip("0") in ("", "3" + "0" * 8), "signal handlers"
        descriptors = sorted(int(each.name) for each in (paused.proc / "fd").iterdir())
        assert descriptors == list(range(9))
        assert all("pipe:" in os.readlink(paused.proc / "fd" / str(fd)) for fd in range(3, 9))
        limits = (paused.proc / "limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        paused.finish()
    for descriptor in inherited:
        os.close(descriptor)


@pytest.mark.parametrize("threads", [1, 3])
def test_stopped_and_continued_run_goes_on(tmp_path: Path, threads: int) -> None:
    """If this fails, a signal that interrupts a read leads to a call that is not allowed."""
    command = [sealed_program(), "--config", write_config(tmp_path, threads=threads), "--seed", "1"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for _ in range(5):
        time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        process.send_signal(signal.SIGCONT)
    assert process.communicate(QUESTION, timeout=30)[0] == ANSWER
    assert process.returncode == 0


def test_process_is_hidden_before_it_opens_anything(tmp_path: Path) -> None:
    """If this fails, a program of the same user opens the memory while configuration, log and model
    are read, and reads the prompt later: the kernel asks at the opening alone."""
    calls = traced(write_config(tmp_path, threads=2, log=str(tmp_path / "ring")))
    hidden = next(i for i, call in enumerate(calls) if call.startswith("prctl(PR_SET_DUMPABLE, "))
    assert calls[hidden].startswith("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE")
    assert calls[hidden].endswith(" = 0")
    assert "RLIMIT_CORE" in calls[hidden + 1]
    # Before it the C library has set up the thread's own storage.
    assert {call.name for call in calls[:hidden]} <= {"execve", "arch_prctl", "set_tid_address"}
    assert hidden + 1 < next(i for i, call in enumerate(calls) if call.startswith("open"))


def test_lock_down_is_complete_before_the_first_byte_of_input(tmp_path: Path) -> None:
    """If this fails, input is read while something can still be opened or mapped."""
    names = [call.split(" = ")[0] for call in traced(write_config(tmp_path, threads=2))]
    first_read = next(i for i, call in enumerate(names) if call.startswith("read(0,"))
    last_filter = max(i for i, call in enumerate(names) if call.startswith("seccomp("))
    # Where there is no Landlock the call before it, which asks for its version, is the last.
    restricts = "landlock_restrict_self" if landlock_abi() else "landlock_create_ruleset"
    landlock = next(i for i, call in enumerate(names) if call.startswith(restricts))
    threads = [i for i, call in enumerate(names) if call.startswith(("clone(", "clone3("))]
    opened = max(i for i, call in enumerate(names) if call.startswith(("open", "mmap(NULL, ")))
    assert opened < last_filter < first_read
    assert "TSYNC" in names[last_filter]
    # One thread tries the clock and ends, before the workers.
    assert landlock < threads[0]
    assert max(i for i, call in enumerate(names) if call.startswith("open")) < landlock
    assert {call.split("(")[0] for call in names[last_filter + 1 :]} <= {
        "read", "write", "exit_group",
    }  # fmt: skip
