"""The units of deploy/systemd: how exposed they are, and that they start, under a real systemd."""

import json
import os
import re
import resource
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.engine import PROTECTIONS, REPOSITORY, demo_model
from tests.support.host import absent_layers, root_only
from tests.support.infer import (
    ANSWER,
    QUESTION,
    demo_config,
    sealed_program,
    traced,
    unsealed_program,
    write_config,
)
from tests.support.lockdown import become_nobody, public_folder
from tests.support.log_ring import Record, event_rows, read_ring
from tests.support.systemd_guest import Guest, systemd_guest

UNITS = REPOSITORY / "deploy" / "systemd"
TMPFILES = REPOSITORY / "deploy" / "tmpfiles.d" / "bitnet.conf"
CREATE_FOLDERS = ("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/bitnet.conf")
SERVICES = ("bitnet.service", "bitnet@.service")
# What this kernel lacks no unit can give.
ABSENT = list(absent_layers())
# Tenths: exposure at most 0.2.
THRESHOLD = 2


def settings_of(unit: str) -> dict[str, list[str]]:
    """The settings of a unit file, each with all its lines."""
    result: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text(encoding="utf-8").splitlines():
        if re.match(r"[A-Za-z]+=", line):
            name, value = line.split("=", 1)
            result.setdefault(name, []).append(value)
    return result


@pytest.mark.parametrize("unit", SERVICES)
def test_unit_exposure_is_within_the_promise(unit: str, tmp_path: Path) -> None:
    """If this fails, the service can reach more of the machine than it needs."""
    (tmp_path / unit).write_bytes((UNITS / unit).read_bytes())
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={THRESHOLD}"]
    result = subprocess.run(
        [*command, "--no-pager", tmp_path / unit], capture_output=True, text=True, check=False
    )
    assert result.stderr == ""  # nothing in it that systemd does not know
    assert result.returncode == 0, result.stdout


def test_recovery_may_write_where_it_may_have_to() -> None:
    """If this fails, a trust root that a power cut interrupted waits for a person."""
    (paths,) = settings_of("bitnet-recover.service")["ReadWritePaths"]
    assert {path.lstrip("-") for path in paths.split()} == {"/opt", "/etc/bitnet"}


def test_units_confine_alike() -> None:
    """If this fails, one way to ask is less confined than the other."""
    one, other = (
        (UNITS / unit).read_text(encoding="utf-8").split("# Who it is")[1] for unit in SERVICES
    )
    assert one == other


@pytest.mark.parametrize("unit", SERVICES)
def test_unit_agrees_with_the_program(unit: str, tmp_path: Path) -> None:
    """If this fails, a limit of the unit takes a layer away, or a call that set-up needs."""
    settings = settings_of(unit)
    assert settings["LimitMEMLOCK"] == ["infinity"]
    assert settings["LimitCORE"] == ["0"]
    assert settings["MemorySwapMax"] == ["0"]
    assert settings["NoNewPrivileges"] == settings["MemoryDenyWriteExecute"] == ["yes"]
    refused = {word for line in settings["SystemCallFilter"][:-1] for word in line[1:].split()}
    assert all(line.startswith("~") for line in settings["SystemCallFilter"][:-1])
    for group in [word for word in refused if word.startswith("@")]:
        listed = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", group],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        refused |= set(re.findall(r"^    (\w+)$", listed, re.MULTILINE))
    refused -= set(settings["SystemCallFilter"][-1].split())
    made = {call.name for call in traced(write_config(tmp_path, threads=3))}
    assert not made & refused
    assert {"socket", "ptrace", "mount", "bpf", "setuid", "reboot", "process_vm_readv"} <= refused


@pytest.mark.parametrize("page", ["docs/operations.md", "deploy/systemd/README.md"])
def test_page_makes_the_folders_that_the_unit_needs(page: str) -> None:
    """If this fails, the first prompt has nowhere to go until the machine is started again."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert re.search(rf"^    .*{re.escape(' '.join(CREATE_FOLDERS))}$", text, re.MULTILINE)


# Under systemd itself.


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with systemd_guest() as guest:
        folder = "/opt/bitnet.d/1-0123456789abcdef"
        guest.put(f"{folder}/bitnet-infer", sealed_program().read_bytes(), 0o755)
        # One thread: where the machine may not raise the limit on locked memory it is 8 MiB.
        config = demo_config(accept_missing=ABSENT, log="/run/bitnet-log/ring")
        guest.put(f"{folder}/config.yaml", config.encode())
        guest.run("ln", "-s", "bitnet.d/1-0123456789abcdef", "/opt/bitnet")
        for path in (*SERVICES, "bitnet.socket", "bitnet.slice"):
            guest.put(f"/run/systemd/system/{path}", (UNITS / path).read_bytes())
        guest.put("/run/sysusers.conf", (UNITS / "bitnet-sysusers.conf").read_bytes())
        assert guest.run("systemd-sysusers", "/run/sysusers.conf").returncode == 0
        guest.put("/etc/tmpfiles.d/bitnet.conf", TMPFILES.read_bytes())
        assert guest.run(*CREATE_FOLDERS).returncode == 0
        assert guest.run("systemctl", "daemon-reload").returncode == 0
        yield guest


@root_only
def test_service_under_systemd_answers(guest: Guest) -> None:
    """If this fails, the unit that we ship does not start."""
    assert guest.path("/run/bitnet").stat().st_mode & 0o7777 == 0o700
    guest.put("/run/bitnet/prompt.txt", QUESTION)
    guest.start("bitnet.service")
    assert guest.run("cat", "/run/bitnet/answer.txt").stdout == ANSWER


@root_only
@pytest.mark.parametrize("model", ["model.bin", "/opt/bitnet/model.bin"])
def test_service_under_systemd_answers_with_the_model_beside_the_executable(
    guest: Guest, model: str
) -> None:
    """If this fails, a release of two files passes its self-test, and then never answers."""
    folder = "/opt/bitnet.d/2-0123456789abcdef"
    guest.put(f"{folder}/bitnet-infer", unsealed_program().read_bytes(), 0o755)
    guest.put(f"{folder}/model.bin", demo_model().read_bytes())
    config = demo_config(accept_missing=ABSENT, model=model)
    guest.put(f"{folder}/config.yaml", config.encode())
    guest.put("/run/bitnet/prompt.txt", QUESTION)
    guest.run("ln", "-sfn", "bitnet.d/2-0123456789abcdef", "/opt/bitnet")
    try:
        guest.start("bitnet.service")
    finally:
        guest.run("ln", "-sfn", "bitnet.d/1-0123456789abcdef", "/opt/bitnet")
    assert guest.run("cat", "/run/bitnet/answer.txt").stdout == ANSWER


@root_only
def test_service_under_systemd_keeps_one_log_over_its_runs(guest: Guest) -> None:
    """If this fails, the log that the page names cannot be made, or is gone after each answer."""
    guest.put("/run/bitnet/prompt.txt", QUESTION)
    before = len(logged(guest))
    for _ in range(2):
        guest.start("bitnet.service")
        assert guest.run("cat", "/run/bitnet/answer.txt").stdout == ANSWER
    words = [event_rows()[each.event].word for each in logged(guest)[before:]]
    run = ["start", "configuration", "model", "hardening", "prompt", "answer", "exit"]
    assert words == run * 2
    # Only its own user and root come to it.
    assert guest.path("/run/private").stat().st_mode & 0o777 == 0o700
    assert guest.path("/run/private/bitnet-log/ring").stat().st_mode & 0o777 == 0o600
    assert guest.run("cat", "/proc/mounts").stdout.count(b" /run tmpfs ") == 1


def logged(guest: Guest) -> list[Record]:
    """The records of the log of bitnet.service; none where there is no file yet."""
    ring = guest.path("/run/private/bitnet-log/ring")
    return read_ring(ring.read_bytes()) if ring.exists() else []


@root_only
def test_service_under_systemd_has_every_layer(guest: Guest) -> None:
    """If this fails, what the unit refuses takes a layer of the program away."""
    text = (UNITS / "bitnet.service").read_text(encoding="utf-8")
    report = text.replace("--seed 42", "--hardening-report --json")
    assert report != text
    guest.put("/run/systemd/system/bitnet-report.service", report.encode())
    guest.put("/run/bitnet/prompt.txt", b"")
    guest.run("systemctl", "daemon-reload")
    guest.start("bitnet-report.service")
    layers = json.loads(guest.run("cat", "/run/bitnet/answer.txt").stdout)["layers"]
    expected = dict.fromkeys(PROTECTIONS, "on") | dict.fromkeys(ABSENT, "accepted")
    assert {name: row["state"] for name, row in layers.items()} == expected


@root_only
def test_socket_under_systemd_serves_many_users(guest: Guest) -> None:
    """If this fails, local users cannot ask, or one gets what another was told."""
    guest.start("bitnet.socket")
    place = guest.path("/run/bitnet.sock")
    assert (place.stat().st_mode & 0o777, place.stat().st_uid) == (0o660, 0)
    answers = {QUESTION: ANSWER, b"show failed systemd units": b"systemctl list-units --failed\n"}

    def ask(question: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(place))
            client.sendall(question)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(4096), b""))

    questions = list(answers) * 4
    # Two at a time: from version 256 on systemd allows four to one user, and it ends one a moment
    # after its answer.
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, questions)) == [answers[question] for question in questions]


@root_only
def test_connections_under_systemd_have_a_limit_of_memory_together(guest: Guest) -> None:
    """If this fails, those who may ask can take all memory of the machine, locked."""
    shown = guest.run("systemctl", "show", "--property=Slice", "bitnet@1.service").stdout
    assert shown == b"Slice=bitnet.slice\n"
    shown = guest.run("systemctl", "show", "--property=MemoryMax", "bitnet.slice").stdout
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert int(shown.split(b"=")[1]) <= total // 2


# The same limits without systemd: runs wherever the tests do.


@root_only
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_program_under_the_limits_of_the_unit_answers(kind: str) -> None:
    """If this fails, the program needs something that a service does not have."""
    with public_folder() as folder:
        (folder / "config.yaml").write_text(demo_config(accept_missing=ABSENT), encoding="utf-8")

        def confined() -> None:
            os.chdir("/")
            os.umask(0o077)
            for limit, value in (
                (resource.RLIMIT_CORE, 0),
                (resource.RLIMIT_NOFILE, 256),
                (resource.RLIMIT_NPROC, 80),
            ):
                resource.setrlimit(limit, (value, value))
            become_nobody()

        ours, theirs = socket.socketpair() if kind == "socket" else (None, None)
        process = subprocess.Popen(
            [folder / "bitnet-infer", "--config", folder / "config.yaml", "--seed", "42"],
            stdin=theirs or subprocess.PIPE, stdout=theirs or subprocess.PIPE,
            stderr=subprocess.PIPE, env={}, start_new_session=True,
            preexec_fn=confined,  # noqa: PLW1509 - no other thread runs here
        )  # fmt: skip
        if ours is None or theirs is None:
            output, errors = process.communicate(QUESTION, timeout=60)
        else:
            theirs.close()
            with ours:
                ours.settimeout(60)
                ours.sendall(QUESTION)
                ours.shutdown(socket.SHUT_WR)
                output = b"".join(iter(lambda: ours.recv(4096), b""))
            _, errors = process.communicate(timeout=60)
        assert (output, errors, process.returncode) == (ANSWER, b"", 0)
