"""`make conformance`: runs every attack and prints what it mirrors and whether it was stopped."""

import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table


class Collected:
    """Gathers each test's case and outcome."""

    def __init__(self) -> None:
        self.cases: dict[str, tuple[str, str]] = {}
        self.outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for marker in item.iter_markers("conformance"):
                self.cases[item.nodeid] = marker.args

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


def main() -> int:
    """Returns pytest's exit code."""
    collected = Collected()
    folder = Path(__file__).parent
    where = [str(folder), str(folder.parent / "programs" / "test_verify.py")]
    arguments = ["-q", "--no-header", "-m", "conformance", *where, *sys.argv[1:]]
    code = pytest.main(arguments, plugins=[collected])
    table = Table("mirrors (tuf-conformance)", "attack", "test", "outcome")
    for test, (mirrors, attack) in sorted(collected.cases.items(), key=lambda case: case[1]):
        name = test.rpartition("::")[2].replace("[", "\\[")
        table.add_row(mirrors, attack, name, collected.outcomes.get(test, "not run"))
    Console(width=180).print(table)
    passed = sum(outcome == "passed" for outcome in collected.outcomes.values())
    print(f"{passed} of {len(collected.cases)} cases as they should be")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
