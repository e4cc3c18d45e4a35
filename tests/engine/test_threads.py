"""The team of threads: one result for any size and load, and no processor time between calls."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.engine import REPOSITORY, available_isas, demo_model, library_path, open_engine
from tests.support.infer import ANSWER, ask, assert_refused, traced, write_config

PROMPT = [int(token) for token in np.random.default_rng(1).integers(4, 4096, 70)]
ROUNDS = 3

WORKER = """
import json, sys
from tests.support.engine import open_engine
path, (threads, prompt, rounds) = sys.argv[1], map(json.loads, sys.argv[2:])
with open_engine(path, threads=threads, prefill_chunk=16) as engine:
    for _ in range(rounds):
        answer = engine.generate(prompt, max_new_tokens=24, temperature=1.0, seed=3)
        print(json.dumps([answer.ids, engine.logits(prompt).tobytes().hex()[:64]]))
"""


def start_worker(threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(demo_model()), str(threads), json.dumps(PROMPT)]
    environment = dict(os.environ) | {"BITNET_TEST_LIBRARY": str(library_path())}
    return subprocess.Popen(
        [*command, str(ROUNDS)], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("isa", available_isas())
def test_logits_one_to_eight_threads_are_bit_equal(isa: str) -> None:
    """If this fails, how work is divided shows in the result."""
    results = []
    for threads in range(1, 9):
        with open_engine(demo_model(), threads=threads, isa=isa, prefill_chunk=9) as engine:
            results.append(engine.logits(PROMPT).tobytes())
    assert len(set(results)) == 1


def test_logits_more_threads_than_work_are_bit_equal() -> None:
    """If this fails, a thread without a share writes or waits where it should not."""
    ids = PROMPT[:3]
    with open_engine(demo_model()) as engine:
        expected = engine.logits(ids).tobytes()
    with open_engine(demo_model(), threads=64, prefill_chunk=1) as engine:
        assert engine.logits(ids).tobytes() == expected


def test_generate_under_load_is_the_same_everywhere() -> None:
    """If this fails, load changes an answer, or a thread that was put aside misses a wake."""
    workers = [start_worker(threads) for threads in (1, 2, 4, 8)]
    outputs = []
    for worker in workers:
        output, _ = worker.communicate(timeout=120)
        assert worker.returncode == 0
        outputs += [json.loads(line) for line in output.splitlines()]
    assert len(outputs) == 4 * ROUNDS
    assert all(output == outputs[0] for output in outputs)


def test_team_idle_uses_no_processor_time() -> None:
    """If this fails, a program that waits for its next request burns a core per thread."""
    with open_engine(demo_model(), threads=8) as engine:
        engine.generate(PROMPT, max_new_tokens=4)
        time.sleep(0.05)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.05


def test_team_waiting_for_a_slow_reader_uses_no_processor_time() -> None:
    """If this fails, workers spin while the caller of one token is busy elsewhere."""
    with open_engine(demo_model(), threads=4) as engine:
        for _ in range(5):
            engine.logits(PROMPT[:2])
            before = time.process_time()
            time.sleep(0.1)
            assert time.process_time() - before < 0.03


def test_close_ends_all_threads() -> None:
    """If this fails, every engine that was ever opened leaves its threads behind."""
    tasks = Path("/proc/self/task")
    gc.collect()  # of engines that other tests left
    before = len(list(tasks.iterdir()))
    with open_engine(demo_model(), threads=5) as engine:
        engine.logits(PROMPT[:2])
        assert len(list(tasks.iterdir())) == before + 4
    # Whoever joins a thread goes on a moment before the kernel has taken it off the list.
    deadline = time.monotonic() + 10
    while len(list(tasks.iterdir())) != before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_program_three_threads_steady_state_has_no_futex(tmp_path: Path) -> None:
    """If this fails, the filter that allows read and write alone would stop the program."""
    calls = traced(write_config(tmp_path, threads=3))
    first = next(i for i, call in enumerate(calls) if call.startswith("read(0,"))
    # Two workers, and the short-lived thread that tries the clock under the filter.
    assert sum(call.name in ("clone", "clone3") for call in calls[:first]) == 2 + 1
    assert {call.name for call in calls[first:]} <= {"read", "write", "exit_group", "clock_gettime"}
    descriptors = {
        call.split("(")[1].split(",")[0] for call in calls[first:] if call.name == "read"
    }
    assert descriptors >= {"0"}


def test_infer_cores_any_choice_answers_the_same(tmp_path: Path) -> None:
    """If this fails, pinning changes an answer or does not keep the threads where it says."""
    expected = ask(write_config(tmp_path)).stdout
    core = min(os.sched_getaffinity(0))
    for threads in (1, 2):
        result = ask(write_config(tmp_path, threads=threads, cores=[core] * threads))
        assert (result.returncode, result.stdout, result.stderr) == (0, expected, b"")


def test_infer_core_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """If this fails, a run goes on with threads where nobody wanted them."""
    config = write_config(tmp_path, threads=2, cores=[min(os.sched_getaffinity(0)), 1023])
    assert_refused(ask(config), "kNoCore", "cores", 0, 22, 1023)


def test_infer_resident_weights_answer_the_same_in_the_same_memory(tmp_path: Path) -> None:
    """If this fails, the copy differs from the file, or both count at once."""
    peaks = {}
    for weights in ("mapped", "resident"):
        config = write_config(tmp_path, weights=weights)
        result = ask(config, wrapper=("/usr/bin/time", "-f", "%M"))
        assert result.stdout == ask(config).stdout == ANSWER
        peaks[weights] = int(result.stderr)
    step_kib = 4096  # the file's pages of one step, given back before the next
    huge_page_kib = 2048  # what the copy's last page holds beyond its end
    assert peaks["resident"] <= peaks["mapped"] + step_kib + huge_page_kib
