"""One table of errors, limits and versions: the page, the engine, its library and Python agree."""

import ctypes
import re
import tomllib

import pytest

from bitnet import errors, limits
from bitnet.cli import render
from bitnet.engine import library
from bitnet.errors import ToolkitError
from tests.support.engine import REPOSITORY, engine_library
from tests.support.status_table import StatusRow, status_rows

PAGE = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")


# Bytes are not what they were: exit code 3 whatever the range.
NOT_TRUSTED = {
    "kModelDigest", "kModelLeaf", "kSealBroken", "kMappingDiffers", "kRegionForeign", "kLogFormat",
    "kLogChain",
}  # fmt: skip


def page_rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    part = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_page_holds_every_status_as_the_engine_has_it() -> None:
    """If this fails, a user looks up a message, a number or an exit code that is none."""
    rows = page_rows("Programs inside the gap")
    assert [(row[0], int(row[1]), int(row[2]), row[3], row[5]) for row in rows] == [
        (row.name, row.number, row.exit_code, row.text, row.hint) for row in status_rows().values()
    ]
    assert all(row[4] for row in rows)


def test_library_gives_every_row_of_the_table() -> None:
    """If this fails, Python tells an error with the words of another one."""
    shared = engine_library()
    by_number = {row.number: row for row in status_rows().values()}
    for number in range(256):
        columns = (ctypes.c_char_p * 6)()
        exit_code = shared.bitnet_status_row(number, ctypes.byref(columns))
        words = [(column or b"").decode() for column in columns]
        row = by_number.get(number, StatusRow("", number, 70, "internal error", "", "", "", ""))
        assert (exit_code, *words) == (
            row.exit_code, row.name, row.text, row.where, row.found, row.limit, row.hint
        )  # fmt: skip


def test_statuses_keep_to_their_ranges() -> None:
    """If this fails, a script that tells kinds of failure apart by exit code is misled."""
    rows = list(status_rows().values())
    assert len({row.number for row in rows}) == len(rows)
    assert [row.number for row in rows] == sorted(row.number for row in rows)
    for row in rows[1:]:
        kind = row.number // 20
        expected = {0: {2}, 1: {1}, 2: {1}, 3: {5}, 4: {3}, 5: {1, 3, 4, 5}, 6: {3}}[kind]
        expected = {3} if row.name in NOT_TRUSTED else expected
        expected = (
            {5} if row.name in ("kProcessHidden", "kOwnFileHidden", "kSelftestHost") else expected
        )
        assert row.exit_code in expected, row
        assert row.text
        assert row.text[0].islower()
        assert not row.text.endswith(".")
        assert row.hint
        assert row.hint[0].islower()
        assert not row.hint.endswith(".")


# From 80 on they are of programs that verify and install, which Python does not load.
IN_LIBRARY = [row for row in status_rows().values() if 0 < row.number < 80]


@pytest.mark.parametrize("row", IN_LIBRARY, ids=lambda row: row.name)
def test_status_in_python_keeps_its_exit_code(row: StatusRow) -> None:
    """If this fails, the same refusal ends a command with another code than the sealed program."""
    error = library.new_error()
    error.subject, error.where, error.value, error.limit = b"thing", 1, 2, 3
    with pytest.raises(ToolkitError) as caught:
        library.check(engine_library(), row.number, error)
    raised = caught.value
    assert raised.exit_code == row.exit_code
    assert raised.message == f"{row.text}: `thing`"
    assert raised.hint == row.hint
    numbers = ((row.where, 1), (row.found, 2), (row.limit, 3))
    facts = ", ".join(f"{label} {number}" for label, number in numbers if label)
    assert raised.where == ((facts,) if facts else ())
    assert type(raised).__name__ in {cells[0] for cells in page_rows(SECTION)}


SECTION = "Python package and its commands"


def test_page_holds_every_class_of_python() -> None:
    """If this fails, an exception or its exit code is not documented."""
    classes = {name: getattr(errors, name) for name in errors.__all__}
    assert {cells[0]: int(cells[1]) for cells in page_rows(SECTION)} == {
        name: kind.exit_code for name, kind in classes.items()
    }
    assert all(issubclass(kind, ToolkitError) for kind in classes.values())
    in_module = {
        name for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }  # fmt: skip
    assert in_module == set(errors.__all__)


def test_page_holds_every_exit_code_and_no_other() -> None:
    """If this fails, a script meets an exit code that is explained nowhere."""
    classes = {getattr(errors, name).exit_code for name in errors.__all__}
    programs = {row.exit_code for row in status_rows().values()}
    told = {0, render.EXIT_INTERNAL, render.EXIT_INTERRUPTED} | classes | programs
    assert {int(cells[0]) for cells in page_rows("Exit codes")} == told


def test_limits_are_the_same_on_both_sides() -> None:
    """If this fails, the builder writes a file that the engine refuses, or the other way round."""
    header = (REPOSITORY / "engine/base/limits.h").read_text(encoding="utf-8")
    found = {}
    for name, text in re.findall(r"constexpr uint32_t k(\w+) = ([^;]+);", header):
        factors = re.fullmatch(r"(\d+)u?(?: << (\d+))?", text)
        assert factors is not None, text
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()
        found[snake] = int(factors[1]) << int(factors[2] or 0)
    python = {name: getattr(limits, name) for name in limits.__all__ if name.isupper()}
    assert python.keys() <= found.keys()
    assert {name: found[name] for name in python} == python


def test_versions_are_the_same_everywhere() -> None:
    """If this fails, `--version` and the package disagree about what was sealed."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    header = (REPOSITORY / "engine/base/version.h").read_text(encoding="utf-8")
    version = project["project"]["version"]
    assert re.findall(r'kVersion\[\] = "([^"]+)"', header) == [version]
    assert engine_library().bitnet_version().decode() == version
