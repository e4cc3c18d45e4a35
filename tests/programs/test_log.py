"""The log ring from both ends: what bitnet-infer writes, what bitnet-log says of it."""

import fcntl
import hashlib
import os
import random
import re
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import REPOSITORY, demo_model
from tests.support.host import absent_layers, root_only
from tests.support.infer import ANSWER, QUESTION, ask, assert_refused, traced, write_config
from tests.support.lockdown import mappings_of, paused_run
from tests.support.log_programs import (
    assert_told,
    end,
    log_program,
    show,
    shown,
    start_writer,
    write,
)
from tests.support.log_ring import CAPACITY, HEADER_BYTES, RING_BYTES, event_rows, read_ring
from tests.support.status_table import status_rows


def test_run_writes_what_the_page_says_and_no_text(tmp_path: Path) -> None:
    """Whoever reads the log learns which bytes ran, and nothing that a user wrote."""
    path = tmp_path / "ring"
    config = write_config(tmp_path, log=str(path), log_text="no", verify="lazy")
    assert ask(config).stdout == ANSWER
    content = path.read_bytes()
    records = read_ring(content)
    assert [event_rows()[each.event].word for each in records] == [
        "start", "configuration", "model", "hardening", "prompt", "answer", "exit",
    ]  # fmt: skip
    start, configuration, model, hardening, prompt, answer, last = records
    assert hardening.numbers[0] | hardening.numbers[1] == 2**10 - 1
    assert hardening.numbers[0] & hardening.numbers[1] == 0
    assert start.numbers[1] == 42
    assert configuration.data == hashlib.sha3_384(config.read_bytes()).digest()
    assert configuration.numbers == (config.stat().st_size, 1, 0)
    assert model.data == demo_model().read_bytes()[216:264]
    assert model.numbers[0] == demo_model().stat().st_size
    assert prompt.numbers[0] == len(QUESTION)
    assert (answer.numbers[2], answer.data) == (len(ANSWER) - 1, b"stop_token")
    assert last.numbers[0] == 0
    # Three bytes stand by chance in times and digests, one run in some ten thousands.
    assert not any(
        word in content for word in (*QUESTION.split(), *ANSWER.split()) if len(word) > 3
    )
    assert path.stat().st_mode & 0o7777 == 0o640 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_run_with_text_logs_prompt_and_answer_whole(tmp_path: Path) -> None:
    """A log that was asked for must be complete."""
    path = tmp_path / "ring"
    ask(write_config(tmp_path, log=str(path), log_text="yes"))
    rows = event_rows()
    texts = {"prompt_text": b"", "answer_text": b""}
    for record in read_ring(path.read_bytes()):
        word = rows[record.event].word
        if word in texts:
            assert record.numbers[0] == len(texts[word])
            texts[word] += record.data
    assert texts == {"prompt_text": QUESTION, "answer_text": ANSWER.rstrip(b"\n")}


def test_run_with_a_long_prompt_logs_its_beginning_and_its_whole_length(tmp_path: Path) -> None:
    """Whoever reads a part must see that it is one; and what the page names must be shown."""
    path = tmp_path / "ring"
    question = b" documentation" * 300  # a token each
    config = write_config(
        tmp_path, log=str(path), log_text="yes", max_new_tokens=4, prompt_bytes_max=8192
    )
    asked = ask(config, question=question)
    rows = event_rows()
    records = read_ring(path.read_bytes())
    texts = [each for each in records if rows[each.event].word == "prompt_text"]
    assert b"".join(each.data for each in texts) == question[:3072]
    assert {each.numbers[1] for each in texts} == {len(question)}
    told_texts = [each for each in shown(path)[0] if each["event"] == "answer_text"]
    answers = [each for each in records if rows[each.event].word == "answer_text"]
    assert [(each["at"], each["bytes"]) for each in told_texts] == [
        each.numbers[:2] for each in answers
    ]
    assert sum(len(each.data) for each in answers) == len(asked.stdout) - 1 > 0
    assert all(each.numbers[1] >= len(each.data) for each in answers)


def test_run_that_fails_logs_the_error_and_the_code(tmp_path: Path) -> None:
    """The last thing an operator finds must say why it was the last."""
    path = tmp_path / "ring"
    result = ask(write_config(tmp_path, log=str(path)), question=b"")
    assert_refused(result, "kPromptEmpty", "standard input")
    *_, error, last = read_ring(path.read_bytes())
    assert error.numbers[0] == status_rows()["kPromptEmpty"].number
    assert error.data == b"standard input"
    assert last.numbers[0] == 1


def test_runs_one_after_the_other_share_one_history(tmp_path: Path) -> None:
    """A program that answers one prompt a run would else have a log of one prompt."""
    path = tmp_path / "ring"
    config = write_config(tmp_path, log=str(path))
    ask(config)
    first = read_ring(path.read_bytes())
    ask(config)
    both = read_ring(path.read_bytes())
    assert both[: len(first)] == first
    assert len(both) == 2 * len(first)
    assert path.stat().st_size == RING_BYTES


def test_run_with_log_makes_no_further_system_call(tmp_path: Path) -> None:
    """The filter allows none: a log that needed one would end the program."""
    path = tmp_path / "ring"
    calls = traced(write_config(tmp_path, log=str(path), log_text="yes", threads=2))
    names = [call.name for call in calls]
    first_read = next(i for i, call in enumerate(calls) if call.startswith("read(0"))
    assert set(names[first_read:]) <= {"read", "write", "exit_group", "clock_gettime"}
    assert len(read_ring(path.read_bytes())) > 6


@root_only
def test_run_keeps_the_ring_locked_and_out_of_dumps(tmp_path: Path) -> None:
    """With `log_text: yes` prompt and answer stand in it: they must not reach swap or a dump."""
    path = tmp_path / "ring"
    config = write_config(tmp_path, log=str(path), log_text="yes", lock="arena")
    with paused_run(config) as paused:
        (ring,) = (each for each in mappings_of(paused.proc) if each.path == str(path))
        sealed = set() if "mseal" in absent_layers() else {"sl"}
        assert {"lo", "dd", *sealed} <= set(ring.flags), ring
        assert ring.fields["Locked"] == ring.end - ring.begin == RING_BYTES
        paused.finish()


@pytest.mark.parametrize("count", [0, 1, 2, CAPACITY - 1, CAPACITY, CAPACITY + 1, 3 * CAPACITY + 7])
def test_reader_agrees_with_the_oracle_before_and_after_the_wrap(
    tmp_path: Path, count: int
) -> None:
    """The place where the ring closes is where a reader loses or repeats records."""
    path = tmp_path / "ring"
    assert write(path, count) == "ready\n"
    expected = read_ring(path.read_bytes())
    records, state = shown(path)
    assert [(each["sequence"], each["tokens"], each["ms"]) for each in records] == [
        (each.sequence, each.numbers[0], each.numbers[1]) for each in expected
    ]
    assert len(records) == min(count, CAPACITY - 2) if count >= CAPACITY else len(records) == count
    assert state["head"] == count
    assert state["chain"] == (expected[-1].chain.hex() if expected else "")
    assert state["writer"] == ("died" if count else "none")
    assert [each["sequence"] for each in shown(path, "--lines", "3")[0]] == [
        each.sequence for each in expected[-3:]
    ]


def test_any_flipped_bit_of_a_ring_is_found_and_the_record_named(tmp_path: Path) -> None:
    """A log that can be edited without a trace is a story."""
    path = tmp_path / "ring"
    count = 40
    write(path, count)
    original = path.read_bytes()
    used = HEADER_BYTES + count * 128
    rng = random.Random(5)
    places = [*range(24, 104), *(rng.randrange(HEADER_BYTES, used) for _ in range(300))]
    for place in places:
        content = bytearray(original)
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        result = show(path)
        assert result.returncode == 3, place
        if place >= HEADER_BYTES:
            assert_told(result, "kLogChain", "ring", (place - HEADER_BYTES) // 128)
    path.write_bytes(original)
    assert show(path).returncode == 0


def shown_error(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The names of the statuses whose words a program used."""
    first = result.stderr.split(": `")[0].removeprefix("error: ")
    return [row.name for row in status_rows().values() if row.text == first]


@pytest.mark.parametrize("wrapped", [False, True])
def test_removed_swapped_and_cut_records_are_found(tmp_path: Path, wrapped: bool) -> None:
    """Each way to make an event unsaid."""
    path = tmp_path / "ring"
    count = CAPACITY + 100 if wrapped else 100
    write(path, count)
    original = path.read_bytes()

    def record(sequence: int) -> slice:
        at = HEADER_BYTES + sequence % CAPACITY * 128
        return slice(at, at + 128)

    def changed(change: Any) -> subprocess.CompletedProcess[str]:
        content = bytearray(original)
        change(content)
        path.write_bytes(content)
        return show(path)

    def swap(content: bytearray) -> None:
        a, b = record(count - 9), record(count - 5)
        content[a], content[b] = content[b], content[a]

    def remove(content: bytearray) -> None:
        content[record(count - 7)] = bytes(128)

    def set_head(value: int) -> Any:
        return lambda content: struct.pack_into("<Q", content, 64, value)

    assert_told(changed(swap), "kLogChain", "ring", count - 9)
    assert_told(changed(remove), "kLogChain", "ring", count - 7)
    if wrapped:  # where the oldest records should be, newer ones stand
        assert "kLogChain" in shown_error(changed(set_head(count - 3)))
    else:
        assert_told(changed(set_head(count - 3)), "kLogChain", "head", count - 3)
        assert_told(changed(set_head(count - 1)), "kLogChain", "head", count - 1)
    assert_told(changed(set_head(count + 1)), "kLogChain", "ring", count)
    assert changed(set_head(2**63 + 5)).returncode == 3


@pytest.mark.parametrize("size", [0, 10, 4096, RING_BYTES - 1, RING_BYTES + 1])
def test_truncated_ring_is_told_by_its_size(tmp_path: Path, size: int) -> None:
    """A mapping of a file that was cut would end the reader with a signal."""
    path = tmp_path / "ring"
    write(path, 50)
    os.truncate(path, size)
    assert_told(show(path), "kLogFormat", "size", size)
    # A writer takes an empty file for a new one: nobody can tell it from none.
    told = f"{status_rows()['kLogFormat'].number} {size} 0\n"
    assert write(path, 1) == (told if size > 0 else "ready\n")


def test_writer_refuses_a_ring_that_was_changed(tmp_path: Path) -> None:
    """To go on would make the changed part look like history."""
    path = tmp_path / "ring"
    write(path, 50)
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 20 * 128 + 30] ^= 1
    path.write_bytes(content)
    assert write(path, 1) == f"{status_rows()['kLogChain'].number} 20 0\n"
    assert path.read_bytes() == content
    refused = ask(write_config(tmp_path, log=str(path)))
    assert_refused(refused, "kLogChain", "ring", 20)


def test_writer_follows_no_link_and_takes_no_foreign_file(tmp_path: Path) -> None:
    """A path in a folder that all may write to is one that others may have filled."""
    numbers = {name: row.number for name, row in status_rows().items()}
    target = tmp_path / "target"
    path = tmp_path / "ring"

    def refused(*facts: object) -> None:
        before = target.read_bytes() if target.is_file() else None
        assert write(path, 1) == " ".join(map(str, facts)) + "\n"
        assert (target.read_bytes() if target.is_file() else None) == before

    path.symlink_to(target)
    refused(numbers["kLogFile"], 0, 40)  # ELOOP
    target.write_bytes(b"mine")
    refused(numbers["kLogFile"], 0, 40)
    path.unlink()
    target.unlink()
    write(target, 3)
    os.link(target, path)
    refused(numbers["kLogForeign"], 0, 640)
    path.unlink()
    target.rename(path)
    for mode in (0o660, 0o644, 0o642):
        path.chmod(mode)
        refused(numbers["kLogForeign"], 0, f"{mode:o}")
    path.unlink()
    path.mkdir()
    refused(numbers["kLogFile"], 0, 21)  # EISDIR
    path.rmdir()
    os.mkfifo(path, 0o640)
    refused(numbers["kLogForeign"], 0, 640)
    path.unlink()
    path.write_bytes(b"x" * RING_BYTES)
    path.chmod(0o600)
    refused(numbers["kLogFormat"], 0, 0)
    missing = tmp_path / "none" / "ring"
    assert write(missing, 1) == f"{numbers['kLogFile']} 0 2\n"


@pytest.mark.parametrize("zeros", [0, RING_BYTES])
def test_writer_begins_where_one_before_it_died_before_it_had_begun(
    tmp_path: Path, zeros: int
) -> None:
    """Ended between making the file and its header, a writer would leave what nobody takes."""
    path = tmp_path / "ring"
    path.write_bytes(bytes(zeros))
    path.chmod(0o640)
    assert write(path, 2) == "ready\n"
    assert [each.sequence for each in read_ring(path.read_bytes())] == [0, 1]


def test_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    """Two writers would write two records with one sequence."""
    path = tmp_path / "ring"
    first = start_writer(path, 5)
    assert write(path, 1) == f"{status_rows()['kLogBusy'].number} 0 0\n"
    assert_refused(ask(write_config(tmp_path, log=str(path))), "kLogBusy", "log")
    assert shown(path)[1]["writer"] == "running"
    end(first, signal.SIGKILL)
    assert shown(path)[1]["writer"] == "died"
    assert write(path, 1) == "ready\n"
    assert [each.sequence for each in read_ring(path.read_bytes())] == list(range(6))


def test_page_names_the_offsets_and_events_of_the_engine() -> None:
    """The page is what somebody else would write a reader from."""
    page = (REPOSITORY / "docs/formats/log.md").read_text(encoding="utf-8")
    header = (REPOSITORY / "engine/runtime/log_ring.h").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in page.split("\n## ")}
    sizes = {"u32": 4, "u64": 8, "u64[3]": 24}
    for section, total in (("Header", 4096), ("Record", 128)):
        place = 0
        for row in re.findall(r"^\| (\d+) \| (\d+) \| ([\w\[\]]+) \| (\w+) \|", sections[section],
                              re.MULTILINE):  # fmt: skip
            offset, size, kind, name = int(row[0]), int(row[1]), row[2], row[3]
            assert offset == place
            assert sizes.get(kind, size) == size
            assert name == "reserved_b" or re.search(rf"\b{name}\b", header)
            place += size
        assert place == total
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", sections["Events"], re.MULTILINE)
    assert [(int(number), word) for number, word in rows] == [
        (row.number, row.word) for row in event_rows().values()
    ]


@pytest.mark.parametrize(
    ("arguments", "name", "subject"),
    [
        ([], "kOptionMissing", "PATH"),
        (["a", "b"], "kOptionValue", "b"),
        (["a", "--lines"], "kOptionValue", "--lines"),
        (["a", "--lines", "x"], "kOptionValue", "--lines"),
        (["a", "--wrong"], "kUsage", "--wrong"),
    ],
)
def test_wrong_command_line_is_refused_by_name(
    arguments: list[str], name: str, subject: str
) -> None:
    """A typing error must not show another log than the one that was meant."""
    result = subprocess.run(
        [str(log_program()), *arguments], capture_output=True, text=True, check=False
    )
    assert_told(result, name, subject)


def test_lock_is_the_mapping_s_and_not_the_descriptor_s(tmp_path: Path) -> None:
    """The lock-down closes the descriptor; a lock that ended with it would be none."""
    path = tmp_path / "ring"
    writer = start_writer(path)
    assert not [
        name for name in os.listdir(f"/proc/{writer.pid}/fd")
        if os.readlink(f"/proc/{writer.pid}/fd/{name}") == str(path)
    ]  # fmt: skip
    with path.open("r+b") as file, pytest.raises(BlockingIOError):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    writer.communicate("")
