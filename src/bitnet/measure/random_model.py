"""A model.bin of a given geometry with random weights: as large and as slow as a trained one."""

import contextlib
import dataclasses
import math
import shutil
import sys
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bitnet.checkpoint import ModelSpec, matrix_shape, vector_length
from bitnet.checkpoint.rope import rope_inv_freq
from bitnet.errors import ToolchainError, ToolkitError, UsageError
from bitnet.quantize import ModelSummary, Progress, open_model, write_weights
from bitnet.quantize.layout import KIND_INT8, ROLES, plan_layout

__all__ = ["MARGIN_TRAINED", "SEED_MAX", "RandomWeights", "find_model", "write_random_model"]

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
U16 = npt.NDArray[np.uint16]

SEED_MAX: Final = (1 << 64) - 1
# Cosine of the final state and the row of the chosen token, times the root of the width, which is
# how many deviations of a random row's cosine it is: the median over 1,046 states of the demo model
# (docs/lab_notes.md, 2026-11-25).
MARGIN_TRAINED: Final = 6.4
MARGIN_MAX: Final = 1000.0

# Words of 16 bits that one step of the generator's counter gives: 4 words of 64 bits.
_COUNTER_WORDS: Final = 16
_MEAN_SQUARE_TRIT: Final = 2 / 3
# Cosine of the state and the embedding of the last token where no sign is turned: the embedding has
# variance 1, what the layers add 13/12 (the mean square of a norm's weights), and the final norm's
# weights are uneven by as much.
_COSINE_MAX: Final = 12 / 13 / math.sqrt(1 + 12 / 13)
# A table value is the sum of this many uniform words: near to a normal distribution, as the rows of
# trained tables are, but of the same bits whatever the version of NumPy.
_WORDS_PER_VALUE: Final = 4


class RandomWeights:
    """`WeightRows` that are a pure function of seed, role, layer and row.

    Trits are uniform over -1, 0, +1 (to 2^-16); table values near to normal with deviation 1; norm
    weights uniform in 0.5 … 1.5. Scales keep the outputs of matrices of order 1, those that go into
    the residual stream smaller by its number of additions, and logits of order 1, so that no
    number of layers overflows. Rows of different blocks do not depend on how blocks are cut.

    The final state resembles the embedding of the last token. With a tied head that would be a
    choice with hardly a doubt, which no trained model makes, and the screen of the head would read
    less than it does for them. Signs of the final norm's weights are therefore turned at random
    until `margin` is left of it, in deviations of a random row's cosine; none turned where it is
    more than there is. An untied head has the embedding's values, and so the same margin.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (Philox 4x64-10), as NumPy's
    `Philox` gives its raw output, which NumPy keeps the same in all versions.
    """

    def __init__(self, spec: ModelSpec, seed: int, margin: float = MARGIN_TRAINED) -> None:
        if not 0 <= margin <= MARGIN_MAX:
            raise UsageError(f"margin is out of range: `{margin}`", where=f"0 … {MARGIN_MAX}")
        if not 0 <= seed <= SEED_MAX:
            raise UsageError(f"seed is out of range: `{seed}`", where=f"0 … {SEED_MAX}")
        self._spec = spec
        self._seed = seed
        cosine = min(1.0, margin / (math.sqrt(spec.hidden_size) * _COSINE_MAX))
        self._kept_signs = round((1 + cosine) / 2 * 65536)

    @property
    def spec(self) -> ModelSpec:
        """The geometry."""
        return self._spec

    def matrix_rows(self, role: str, layer: int, begin: int, end: int) -> I8:
        """Returns int8[end - begin, cols] of -1, 0, +1."""
        _, cols = matrix_shape(self._spec, role)
        # The high half of word * 3 is a trit; one array of 32 bits serves all steps.
        products = self._words(role, layer, begin, end, cols).astype(np.uint32)
        products *= np.uint32(3)
        products >>= np.uint32(16)
        trits = products.astype(np.int8)
        trits -= np.int8(1)
        return trits

    def matrix_scale(self, role: str, layer: int) -> np.float32:
        """Returns the multiplier that keeps outputs of order 1 for inputs of order 1."""
        _, cols = matrix_shape(self._spec, role)
        spread = 1 / math.sqrt(cols * _MEAN_SQUARE_TRIT)
        if role in ("o", "down"):
            spread /= math.sqrt(2 * self._spec.layer_count)
        # Between 0.9 and 1.1 of that, so that no two matrices share a scale by their shape.
        return np.float32(spread * (0.9 + 0.2 * self._unit(role, layer)))

    def table_rows(self, role: str, begin: int, end: int) -> F32:
        """Returns float32[end - begin, hidden]; `embedding` and `head` are equal."""
        cols = self._spec.hidden_size
        source = "embedding" if role == "head" else role
        words = self._words(source, None, begin, end, _WORDS_PER_VALUE * cols)
        values: F32 = words[:, :cols].astype(np.float32)
        for part in range(1, _WORDS_PER_VALUE):
            values += words[:, part * cols : (part + 1) * cols]
        values -= np.float32(_WORDS_PER_VALUE * 32767.5)
        values *= np.float32(1 / (65536 * math.sqrt(_WORDS_PER_VALUE / 12)))
        return values

    def vector(self, role: str, layer: int | None) -> F32:
        """Returns float32[length] by role; `rope_inv_freq` is the real one."""
        if role == "rope_inv_freq":
            return rope_inv_freq(self._spec.rope_theta, self._spec.head_dim)
        words = self._words(role, layer, 0, 1, vector_length(self._spec, role))[0]
        values: F32 = words.astype(np.float32) * np.float32(1 / 65536) + np.float32(0.5)
        if role == "final_norm":
            values *= np.float32(1 / math.sqrt(self._spec.hidden_size))
            signs = self._words(role, layer, 1, 2, vector_length(self._spec, role))[0]
            values[signs >= self._kept_signs] *= np.float32(-1)
        return values

    def _unit(self, role: str, layer: int) -> float:
        """Returns a number in 0 … 1 that belongs to the matrix; its rows do not share it."""
        word = self._generator(role, layer, stream=1).random_raw(1)
        return float(word[0]) / 2.0**64

    def _words(self, role: str, layer: int | None, begin: int, end: int, count: int) -> U16:
        """Returns uint16[end - begin, count], `count` words for each row."""
        steps_per_row = -(-count // _COUNTER_WORDS)
        generator = self._generator(role, layer, stream=0)
        generator.advance(begin * steps_per_row)
        raw = generator.random_raw((end - begin) * steps_per_row * _COUNTER_WORDS // 4)
        if sys.byteorder == "big":
            raw = raw.byteswap()
        words = raw.view("<u2").reshape(end - begin, steps_per_row * _COUNTER_WORDS)
        return words[:, :count]

    def _generator(self, role: str, layer: int | None, stream: int) -> np.random.Philox:
        place = ROLES[role] | (0 if layer is None else layer + 1) << 8 | stream << 40
        return np.random.Philox(key=np.array([self._seed, place], np.uint64))


def write_random_model(
    spec: ModelSpec,
    path: Path,
    seed: int,
    progress: Progress | None = None,
    margin: float = MARGIN_TRAINED,
) -> ModelSummary:
    """Writes a model.bin with random weights; the same geometry and seed give the same bytes.

    Memory stays at a few blocks of about a million weights.

    Raises:
        UsageError: The seed or the margin is out of range.
        ToolchainError: The disk has no room for it, or it cannot be written.
    """
    weights = RandomWeights(spec, seed, margin)
    layout = plan_layout(spec, KIND_INT8, KIND_INT8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise ToolchainError(
            f"folder for the model cannot be used: `{path.parent}`",
            where=error.strerror or str(error),
        ) from None
    if free_bytes < layout.file_bytes:
        raise ToolchainError(
            f"disk has no room for the model: `{path}`",
            where=f"needed {layout.file_bytes} bytes, free {free_bytes}",
            hint="make room, or choose another folder with `--models`",
        )
    return write_weights(weights, path, progress=progress)


def find_model(
    name: str,
    spec: ModelSpec,
    seed: int,
    directory: Path,
    progress: Progress | None = None,
    margin: float = MARGIN_TRAINED,
) -> Path:
    """Returns `directory`/NAME-SEED.bin, written first where it is missing or not of this format.

    With another margin than MARGIN_TRAINED its name tells it.

    Raises:
        UsageError, ToolchainError: As `write_random_model`.
    """
    suffix = "" if margin == MARGIN_TRAINED else f"-margin{margin:g}"
    path = directory / f"{name}-{seed}{suffix}.bin"
    if not _is_usable(path, spec):
        write_random_model(spec, path, seed, progress, margin)
    return path


def _is_usable(path: Path, spec: ModelSpec) -> bool:
    """Says whether the file is of today's format and of this geometry; its weights are not read."""
    with contextlib.suppress(ToolkitError), open_model(path) as model:
        return dataclasses.replace(model.spec, rope_theta=spec.rope_theta) == spec
    return False
