"""The rotary frequencies: correctly rounded, and those of transformers up to its own rounding."""

import mpmath
import numpy as np
import pytest
import torch
from transformers import BitNetConfig
from transformers.models.bitnet.modeling_bitnet import BitNetRotaryEmbedding

from bitnet.checkpoint.rope import rope_inv_freq

THETAS = (1e4, 5e5, 1e6, 1000042.0, 5e6)
HEAD_DIMS = (64, 96, 100, 128, 256)


def exact_power(theta: float, exponent: float) -> np.float32:
    """theta ** exponent at 200 bits, rounded by mpmath to the 24 bits of binary32."""
    with mpmath.workprec(200):
        power = mpmath.power(mpmath.mpf(theta), mpmath.mpf(exponent))
    with mpmath.workprec(24):
        return np.float32(float(+power))


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_rope_inv_freq_any_base_is_correctly_rounded(theta: float, head_dim: int) -> None:
    """Broken, a frequency would depend on the host's libm, and logits with it."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
    powers = np.array([exact_power(theta, float(e)) for e in exponents])
    assert np.array_equal(rope_inv_freq(theta, head_dim), np.float32(1) / powers)


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_rope_inv_freq_against_transformers_differs_only_where_pow_is_off(
    theta: float, head_dim: int
) -> None:
    """Broken, positions would turn by other angles than in the published model."""
    config = BitNetConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs, _ = BitNetRotaryEmbedding.compute_default_rope_parameters(config)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
    pow_is_right = [
        float(power) == float(exact_power(theta, float(e)))
        for power, e in zip(theta**exponents, exponents, strict=True)
    ]
    ours = rope_inv_freq(theta, head_dim)
    assert np.array_equal(ours[pow_is_right], theirs.numpy()[pow_is_right])
    ulps = np.abs(ours.view(np.int32) - theirs.numpy().view(np.int32))
    assert ulps.max() <= 2
    assert np.mean(pow_is_right) > 0.9
