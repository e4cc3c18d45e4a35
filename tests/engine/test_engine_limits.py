"""`bitnet.Engine` where numbers end: logits beyond binary32, and a file replaced meanwhile."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from bitnet import Engine
from bitnet.engine import engine as engine_module
from bitnet.errors import EvaluationError, IntegrityError
from bitnet.quantize import open_model
from bitnet.reference import Reference
from tests.support import model_bin
from tests.support.engine import DEMO_TOKENIZER, demo_model, small_model

IDS = [1, 17, 300, 5, 9, 44]


def scaled_demo(path: Path, factor: float) -> Path:
    """Writes the demo with its final norm, and so all logits, times `factor`."""
    data = bytearray(demo_model().read_bytes())
    header_bytes, data_bytes = struct.unpack_from("<QQ", data, 128)
    (count,) = struct.unpack_from("<I", data, 120)
    entries = [struct.unpack_from("<IIIIIfQQ", data, 512 + 64 * index) for index in range(count)]
    (offset, size) = next(entry[6:8] for entry in entries if entry[0] == 14)
    weights = np.frombuffer(bytes(data[offset : offset + size]), "<f4") * np.float32(factor)
    data[offset : offset + size] = weights.tobytes()
    path.write_bytes(model_bin.seal(data, header_bytes, data_bytes))
    return path


def test_perplexity_beyond_binary64_is_infinite(tmp_path: Path) -> None:
    """A model that is badly wrong would end the evaluation with a traceback."""
    model = scaled_demo(tmp_path / "model.bin", 10_000.0)
    with Engine(model, kv_cache="f32") as engine, open_model(model) as opened:
        rows = engine.logits(IDS)[:-1].astype(np.float64)
        losses = [
            np.logaddexp.reduce(row) - row[token] for row, token in zip(rows, IDS[1:], strict=True)
        ]
        assert np.mean(losses) > 710  # exp of it has no binary64
        assert engine.perplexity(IDS) == math.inf
        assert Reference(opened).perplexity(IDS) == math.inf


def test_logit_not_finite_is_refused_as_by_the_reference(tmp_path: Path) -> None:
    """NaN would go into averages and plots as if it were a result."""
    model = scaled_demo(tmp_path / "model.bin", 1e38)
    told = []
    with Engine(model, kv_cache="f32") as engine, open_model(model) as opened:
        reference = Reference(opened)
        calls = (engine.logits, engine.perplexity, reference.logits, reference.perplexity)
        for call in calls:
            with pytest.raises(EvaluationError, match="a logit is not finite") as caught:
                call(IDS)
            told.append(caught.value.where)
    assert len(set(told)) == 1
    assert len(told[0]) == 1


def test_model_replaced_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of a larger vocabulary would be written beyond an array of the smaller one."""
    path = tmp_path / "model.bin"
    path.write_bytes(demo_model().read_bytes())
    compile_tables = engine_module._native_tables

    def replace(tokenizer: Path, expected: bytes) -> object:
        other = tmp_path / "other.bin"
        other.write_bytes(small_model())
        other.replace(path)
        return compile_tables(tokenizer, expected)

    monkeypatch.setattr(engine_module, "_native_tables", replace)
    with pytest.raises(IntegrityError) as caught:
        Engine(path, DEMO_TOKENIZER, context=8)
    assert caught.value.message == "model.bin digest does not match: `root`"
    assert caught.value.where == ("at byte 216",)
