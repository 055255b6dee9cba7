"""Which small layers make each target layer."""

from __future__ import annotations

import numpy as np
import pytest

from ligo.core.errors import PlanError
from ligo.operators.base import DEPTH_OPERATORS

MAPS = {
    ("stack", 3, 6): [0, 1, 2, 0, 1, 2],
    ("stack", 3, 5): [0, 1, 2, 0, 1],
    ("interpolate", 3, 6): [0, 0, 1, 1, 2, 2],
    ("interpolate", 4, 5): [0, 0, 1, 2, 3],
    ("zero_block", 3, 6): [0, 0, 1, 1, 2, 2],
    ("middle", 4, 6): [0, 1, 2, 1, 2, 3],
    ("middle", 2, 4): [0, 0, 0, 1],
    ("middle", 4, 8): [0, 1, 2, 1, 2, 1, 2, 3],
    ("zero_block", 32, 40): [n + m for n in range(0, 32, 4) for m in (0, 1, 2, 3, 3)],
    ("zero_block", 4, 6): [0, 1, 1, 2, 3, 3],
    ("middle", 3, 4): [0, 1, 1, 2],
    ("solar", 4, 6): [0, 1, 2, 1, 2, 3],
    ("solar", 32, 48): [*range(24), *range(8, 32)],
    ("solar", 4, 5): [0, 1, 2, 2, 3],
    ("identity", 3, 3): [0, 1, 2],
}


@pytest.mark.parametrize(("operator", "small", "target"), MAPS)
def test_sources(operator: str, small: int, target: int) -> None:
    layers = DEPTH_OPERATORS.get(operator)().layer_map(small, target)
    assert layers.weights.argmax(axis=1).tolist() == MAPS[operator, small, target]
    np.testing.assert_array_equal(layers.weights.sum(axis=1), 1)


def test_identity_blocks_are_the_inserted_layers() -> None:
    layers = DEPTH_OPERATORS.get("zero_block")().layer_map(4, 6)
    assert layers.describe() == "0 1 1* 2 3 3*"
    assert not layers.coefficients("mlp.down_proj", ends_block=True)[2].any()
    assert layers.coefficients("mlp.up_proj", ends_block=False)[2, 1] == 1


@pytest.mark.parametrize(
    ("operator", "small", "target", "words"),
    [("solar", 3, 7, "at most 6 layers from 3, not 7"), ("identity", 3, 4, "keeps the 3 layers")],
)
def test_depths_that_cannot_be_are_refused(operator: str, small: int, target: int, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        DEPTH_OPERATORS.get(operator)().layer_map(small, target)


@pytest.mark.parametrize(
    ("operator", "small", "target", "rate"),
    [
        ("stack", 3, 6, 0.8),
        ("interpolate", 3, 6, 0.4),
        ("stack", 8, 24, 0.913),
        ("interpolate", 8, 24, 0.304),
    ],
)
def test_connection_rates_are_the_published_ones(operator: str, small: int, target: int, rate: float) -> None:
    """Du et al., NeurIPS 2024, appendix H."""
    layers = DEPTH_OPERATORS.get(operator)().layer_map(small, target)
    assert layers.connection_rate == pytest.approx(rate, abs=5e-4)


@pytest.mark.parametrize("operator", ["stack", "interpolate"])
def test_growing_twice_by_whole_factors_is_growing_once(operator: str) -> None:
    depth = DEPTH_OPERATORS.get(operator)()
    one, two, both = (depth.layer_map(*pair).weights for pair in ((3, 6), (6, 12), (3, 12)))
    np.testing.assert_array_equal(two @ one, both)


def test_the_original_start_is_stacking_with_a_little_of_every_layer() -> None:
    noisy = DEPTH_OPERATORS.get("noisy_stack")().layer_map(6, 12).weights
    np.testing.assert_allclose(noisy.sum(axis=1), 1)
    assert noisy.argmax(axis=1).tolist() == [*range(6), *range(6)]
    assert 0.85 < noisy.max(axis=1).mean() < 0.97
    again = DEPTH_OPERATORS.get("noisy_stack")().layer_map(6, 12).weights
    np.testing.assert_array_equal(noisy, again)
