"""The decay of wsd in its two shapes; warm-up and peaks of all schedules are in test_training."""

from __future__ import annotations

import math

import pytest

from ligo.training.config import TrainConfig
from ligo.training.schedule import learning_rate, num_steps


def rates(shape: str) -> list[float]:
    config = TrainConfig(
        max_tokens=100,
        batch_tokens=1,
        lr=2.0,
        schedule="wsd",
        decay_fraction=0.2,
        decay_shape=shape,
        final_lr_ratio=0.1,
    )
    return [learning_rate(config, step) for step in range(num_steps(config))]


@pytest.mark.parametrize("shape", ["linear", "sqrt"])
def test_wsd_decays_over_its_last_part_alone(shape: str) -> None:
    found = rates(shape)
    assert found[5:81] == [2.0] * 76
    for step in range(80, 100):
        done = (step - 80) / 20
        left = 1 - (math.sqrt(done) if shape == "sqrt" else done)
        assert found[step] == pytest.approx(2.0 * (0.1 + 0.9 * left))


def test_sqrt_decays_earlier_than_linear() -> None:
    assert all(a < b for a, b in zip(rates("sqrt")[81:], rates("linear")[81:], strict=True))
