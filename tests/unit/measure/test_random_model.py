"""Random models: valid, the same everywhere, finite through any number of layers."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet.checkpoint import Int8Rows, ModelSpec
from bitnet.errors import ToolchainError, UsageError
from bitnet.measure.geometry import GEOMETRIES
from bitnet.measure.random_model import SEED_MAX, RandomWeights, find_model, write_random_model
from bitnet.quantize import open_model
from bitnet.reference import Reference
from tests.support.engine import open_engine
from tests.support.measure_models import TINY_TIED, TINY_UNTIED, philox_words

SPECS = pytest.mark.parametrize("spec", [TINY_TIED, TINY_UNTIED], ids=["tied", "untied"])
IDS = [5, 76, 0, 1, 33, 33, 12, 70]


@SPECS
def test_random_model_any_geometry_is_a_valid_file(tmp_path: Path, spec: ModelSpec) -> None:
    """Broken, what is measured would not be what the engine accepts."""
    path = tmp_path / "m.bin"
    summary = write_random_model(spec, path, 3)
    assert path.stat().st_size == summary.file_bytes
    with open_model(path) as model:
        model.verify()
        assert dataclasses.replace(model.spec, rope_theta=spec.rope_theta) == spec


def test_random_model_seed_decides_every_byte(tmp_path: Path) -> None:
    """Broken, two hosts would measure different models under one name."""
    files = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(files, (7, 7, 8)):
        write_random_model(TINY_TIED, path, seed)
    first, same, other = (path.read_bytes() for path in files)
    assert first == same
    assert first != other


def test_random_model_margin_is_the_cosine_of_the_best_row(tmp_path: Path) -> None:
    """Broken, the screen of the head would be measured on choices that no trained model makes."""
    spec = dataclasses.replace(GEOMETRIES["demo"], vocab_size=512, layer_count=8)
    cosines = {}
    for margin in (0.0, 6.4, 1000.0):
        path = find_model("m", spec, 1, tmp_path, margin=margin)
        with open_model(path) as model:
            states = Reference(model)._hidden(list(range(64)))
            table = model.table("head")
            assert isinstance(table, Int8Rows)
            rows = table.codes[:64].astype(np.float32)
        dots = (states * rows).sum(axis=1)
        norms = np.linalg.norm(states, axis=1) * np.linalg.norm(rows, axis=1)
        cosines[margin] = float(np.median(dots / norms)) * np.sqrt(spec.hidden_size)
    assert abs(cosines[0.0]) < 1.5
    assert 5 < cosines[6.4] < 8
    assert cosines[1000.0] > 11
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "m-1-margin0.bin", "m-1-margin1000.bin", "m-1.bin",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="margin is out of range"):
        RandomWeights(spec, 1, -0.5)


@SPECS
def test_random_model_logits_are_those_of_the_reference(tmp_path: Path, spec: ModelSpec) -> None:
    """Broken, a random model would not run the arithmetic that a trained one runs."""
    path = tmp_path / "m.bin"
    write_random_model(spec, path, 1)
    with open_model(path) as model:
        expected = Reference(model).logits(IDS)
    with open_engine(path) as engine:
        found = engine.logits(IDS)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("activation", ["relu2", "silu"])
@pytest.mark.parametrize("sub_norms", [True, False])
def test_random_model_many_layers_keep_logits_of_order_one(
    tmp_path: Path, activation: Any, sub_norms: bool
) -> None:
    """Broken, a deep model would overflow, and denormals or infinities would be timed."""
    spec = dataclasses.replace(
        TINY_TIED,
        layer_count=40,
        activation=activation,
        attn_sub_norm=sub_norms,
        ffn_sub_norm=sub_norms,
    )
    path = tmp_path / "m.bin"
    write_random_model(spec, path, 2)
    with open_engine(path) as engine:
        deviation = float(engine.logits(IDS).std())
    assert 0.2 < deviation < 5


def test_random_weights_trits_are_those_of_philox() -> None:
    """Broken, the weights would depend on NumPy's version, or on more than seed, place and row."""
    row, cols = 5, 60
    trits = RandomWeights(TINY_TIED, 11).matrix_rows("gate", 2, row, row + 1)[0]
    # Role 10, layer 2; a row takes four steps of sixteen words; NumPy counts from 1.
    key = (11, 10 | 3 << 8)
    words = [word for step in range(4) for word in philox_words(key, 1 + 4 * row + step)]
    assert trits.tolist() == [word * 3 // 65536 - 1 for word in words[:cols]]


def test_random_weights_rows_do_not_depend_on_their_block() -> None:
    """Broken, another block size of the writer would change every model."""
    weights = RandomWeights(TINY_TIED, 5)
    for role, read in (
        ("q", lambda *rows: weights.matrix_rows("q", 1, *rows)),
        ("embedding", lambda *rows: weights.table_rows("embedding", *rows)),
    ):
        whole = read(0, 48)
        parts = np.concatenate([read(0, 1), read(1, 17), read(17, 48)])
        np.testing.assert_array_equal(whole, parts, err_msg=role)


def test_random_weights_any_matrix_is_uniform_over_trits() -> None:
    """Broken, zeros would be rarer or more frequent than a third, which some kernels could use."""
    weights = RandomWeights(GEOMETRIES["demo"], 1)
    trits = np.concatenate([weights.matrix_rows(role, 0, 0, 384) for role in ("q", "o", "up")])
    counts = np.bincount((trits + 1).ravel(), minlength=3)
    assert counts.sum() == trits.size
    # Five deviations of a binomial count.
    allowed = 5 * np.sqrt(trits.size * (1 / 3) * (2 / 3))
    assert np.abs(counts - trits.size / 3).max() < allowed


def test_random_weights_tables_are_near_to_normal() -> None:
    """Broken, rows of the head would not look like those of a trained model."""
    values = RandomWeights(GEOMETRIES["demo"], 1).table_rows("embedding", 0, 1000).astype(float)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    # The sum of four uniform numbers has excess kurtosis -1.2 / 4.
    assert abs((values**4).mean() / values.var() ** 2 - 2.7) < 0.05


def test_random_weights_no_two_tensors_are_alike() -> None:
    """Broken, equal tensors would be served twice from one cache line."""
    weights = RandomWeights(TINY_TIED, 1)
    rows = [
        weights.matrix_rows(role, layer, 0, 20).tobytes()
        for role in ("k", "v")
        for layer in range(3)
    ]
    scales = [weights.matrix_scale(role, layer) for role in ("k", "v") for layer in range(3)]
    assert len(set(rows)) == 6
    assert len(set(scales)) == 6


@pytest.mark.parametrize("seed", [-1, SEED_MAX + 1])
def test_random_model_seed_out_of_range_is_refused(tmp_path: Path, seed: int) -> None:
    """Broken, an overflow would leave as NumPy's error."""
    with pytest.raises(UsageError, match="seed is out of range"):
        write_random_model(TINY_TIED, tmp_path / "m.bin", seed)


def test_random_model_seed_largest_is_taken(tmp_path: Path) -> None:
    """Broken, the range in the error would not be the range that works."""
    assert write_random_model(TINY_TIED, tmp_path / "m.bin", SEED_MAX).file_bytes > 0


def test_random_model_full_disk_is_told_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, a disk would be filled for a minute before the error."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ToolchainError) as caught:
        write_random_model(TINY_TIED, tmp_path / "m.bin", 1)
    needed = plan_bytes(tmp_path, monkeypatch, usage)
    assert caught.value.message == f"disk has no room for the model: `{tmp_path / 'm.bin'}`"
    assert caught.value.where == (f"needed {needed} bytes, free 1000",)
    assert not (tmp_path / "m.bin").exists()


def plan_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usage: Any) -> int:
    """The size that the file turns out to have."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    write_random_model(TINY_TIED, tmp_path / "other.bin", 1)
    return (tmp_path / "other.bin").stat().st_size


def test_random_model_folder_in_the_way_of_a_file_is_refused(tmp_path: Path) -> None:
    """Broken, an OSError would leave."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ToolchainError, match="folder for the model cannot be used"):
        write_random_model(TINY_TIED, tmp_path / "file" / "m.bin", 1)


def test_find_model_second_time_keeps_the_file(tmp_path: Path) -> None:
    """Broken, every measurement would first write hundreds of megabytes."""
    path = find_model("tiny", TINY_TIED, 4, tmp_path / "models")
    assert path == tmp_path / "models" / "tiny-4.bin"
    before = path.stat()
    assert find_model("tiny", TINY_TIED, 4, tmp_path / "models").stat() == before


@pytest.mark.parametrize("damage", ["geometry", "truncated", "empty"])
def test_find_model_file_of_another_kind_is_written_again(tmp_path: Path, damage: str) -> None:
    """Broken, a model of yesterday's format would be measured, or end in an error for ever."""
    path = find_model("tiny", TINY_TIED, 4, tmp_path)
    data = path.read_bytes()
    if damage == "geometry":
        write_random_model(dataclasses.replace(TINY_TIED, activation="silu"), path, 4)
    else:
        path.write_bytes(data[:-1] if damage == "truncated" else b"")
    assert find_model("tiny", TINY_TIED, 4, tmp_path).read_bytes() == data
