"""`bitnet bench` as its users type it."""

import json
import re
from pathlib import Path

import pytest

from bitnet.cli import app, render
from bitnet.measure import speed
from bitnet.measure.geometry import GEOMETRIES
from tests.support.measure_models import TINY_TIED

QUICK = ["--rounds", "2", "--tokens", "2", "--prefill", "8", "--positions", "0,5"]


def run(*arguments: object) -> int:
    return render.run_app(app.create(), "bitnet", ["bench", *map(str, arguments)])


@pytest.fixture(autouse=True)
def _tiny_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GEOMETRIES, "tiny", TINY_TIED)
    monkeypatch.setattr(speed, "_BUFFER_BYTES_MIN", 4 << 20)
    monkeypatch.setattr(speed, "last_cache_bytes", lambda: 1 << 20)


def test_bench_json_and_record_hold_the_same_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a script could not read what was measured, or a record would lack what it is of."""
    record = tmp_path / "results" / "tiny.jsonl"
    options = ["--models", tmp_path, "--record", record, "--date", "2026-01-02", "--json"]
    assert run("--geometry", "tiny", "--threads", "1", *QUICK, *options) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert facts["records"] == lines
    assert facts["token_cost"]["kv_position_bytes"] == 2 * 3 * 2 * 16 * 2  # f16
    assert (facts["kv_cache"], facts["weights"]) == ("f16", "resident")
    for line in lines:
        assert line["geometry"] == "tiny"
        assert line["date"] == "2026-01-02"
        assert line["rounds"] == 2
        assert {"cpu", "cores", "compiler", "commit", "dirty", "seed", "parameters"} <= set(line)
    decode = [line for line in lines if line["bench"] == "decode"]
    assert [(line["threads"], line["position"]) for line in decode] == [(1, 0), (1, 5)]
    assert decode[0]["latency_ns"]["count"] == 4
    assert set(decode[0]["tokens_per_second"]) == {"median", "min", "max"}
    assert [line["tokens"] for line in lines if line["bench"] == "prefill"] == [8]
    assert "round 2" in captured.err


def test_bench_table_shows_limits_decode_and_prefill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a person could not read the result; nothing is recorded unless asked for."""
    assert run("--geometry", "tiny", "--isa", "auto,ref", *QUICK, "--models", tmp_path) == 0
    out = capsys.readouterr().out
    assert re.search(r"^geometry +tiny, \d+ parameters, random weights$", out, re.MULTILINE)
    assert re.search(r"^date +20\d\d-\d\d-\d\d$", out, re.MULTILINE)
    assert re.search(r"^read, best +2 ", out, re.MULTILINE)
    assert len(re.findall(r"^ref +[12] +[05] ", out, re.MULTILINE)) == 4
    assert len(re.findall(r"^ref +[12] +8 ", out, re.MULTILINE)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-1.bin"]


def test_bench_default_positions_are_those_that_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a model of short context could not be measured without saying where."""
    arguments = ["--threads", "1", "--rounds", "1", "--prefill", "0", "--json"]
    assert run("--geometry", "tiny", *arguments, "--models", tmp_path) == 0
    records = json.loads(capsys.readouterr().out)["records"]
    assert [line["position"] for line in records if line["bench"] == "decode"] == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--geometry", "none"], "geometry is unknown: `none`"),
        (["--geometry", "tiny", "--threads", "1,x"], "not a list of numbers: `--threads 1,x`"),
        (["--geometry", "tiny", "--threads", ""], "not a list of numbers: `--threads `"),
        (["--geometry", "tiny", "--threads", "65"], "argument is out of range: `--threads`"),
        (["--geometry", "tiny", "--isa", "a b"], "not a list of names: `--isa a b`"),
        (["--geometry", "tiny", "--positions", "-1"], "not a list of numbers: `--positions -1`"),
        (["--geometry", "tiny", "--positions", "64"], "argument is out of range: `--positions`"),
        (["--geometry", "tiny", "--prefill", "65"], "argument is out of range: `--prefill`"),
        (
            ["--geometry", "tiny", "--kv-cache", "f64"],
            "kind of KV cache is unknown: `--kv-cache f64`",
        ),
        (
            ["--geometry", "tiny", "--weights", "x"],
            "place of the weights is unknown: `--weights x`",
        ),
        (["--geometry", "tiny", "--prefill", "64", "--seed", "-1"], "seed is out of range: `-1`"),
    ],
)
def test_bench_bad_argument_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Broken, a typing error would be measured as something else, or end in a traceback."""
    quick = ["--models", tmp_path, "--tokens", 1]
    prefill = [] if "--prefill" in arguments else ["--prefill", 1]
    assert run(*arguments, *quick, *prefill) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}\n")


def test_bench_isa_of_no_processor_is_an_error_of_the_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a wrong name of a kernel table would be measured as another."""
    assert run("--geometry", "tiny", "--isa", "mmx", *QUICK, "--models", tmp_path) == 5
    assert "instruction set is not available" in capsys.readouterr().err


def test_bench_help_names_the_geometries(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, nobody would know what can be measured."""
    assert run("--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    for word in ("bitnet-2b-4t", "tinyllama-1.1b", "falcon3-1b", "--record", "--kv-cache"):
        assert word in out
