"""A sample of `make powerloss`, and the same on the real program with the kernel's own calls."""

from pathlib import Path

import pytest

from tests.powerloss.__main__ import run_shard
from tests.powerloss.interrupted import ACTIONS, VERBS, interrupt, list_calls
from tests.powerloss.scenarios import Scenario, build_driver, scenarios, write_scenarios
from tests.support.installation import Installation

SAMPLE = 100  # one of so many states
EVERY = 11  # of the calls of the real program


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("powerloss") / "scenarios"
    write_scenarios(folder, scenarios())
    return folder


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_power_loss_in_a_sample_of_states_leaves_old_or_new(
    disks: Path, scenario: Scenario
) -> None:
    """If this fails, a power cut at the wrong moment costs a host its release."""
    calls, states, bad = run_shard(
        build_driver(), disks, scenario, every=SAMPLE, phase=3, second=40
    )
    assert calls > 30
    assert states > 3
    assert bad == 0


@pytest.mark.parametrize("verb", VERBS)
def test_interrupted_real_program_leaves_old_or_new(tmp_path: Path, verb: str) -> None:
    """If this fails, the program does what its model does not."""
    folder = tmp_path / "ready"
    folder.mkdir()
    ready = VERBS[verb].prepare(Installation(folder))
    calls = list_calls(ready, VERBS[verb], tmp_path)
    assert len(calls) > 60
    for number, call in enumerate(calls[::EVERY]):
        interrupt(ready, VERBS[verb], tmp_path, call, ACTIONS[number % len(ACTIONS)])
