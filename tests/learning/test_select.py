"""operator=auto: every candidate gets the same steps, the best is kept, and all of it is charged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ligo.accounting.flops import model_flops
from ligo.core.errors import ConfigError
from ligo.growth.plan import plan_growth
from ligo.learning.select import Selection, select_operator
from ligo.operators.config import OperatorConfig, build, check
from ligo.operators.noise_level import NoiseLevel
from ligo.training.config import TrainConfig
from ligo.training.objectives import make_objective
from tests.conftest import tiny_config
from tests.growing import lively_model, on_disk_weights

WANTED = dict(hidden_size=48, num_layers=3, num_heads=6, num_kv_heads=3, ffn_size=64)
TRAINING = TrainConfig(engine="torch", max_tokens=128 * 100, batch_tokens=128, lr=1e-3, schedule="constant")


def windows(step: int) -> np.ndarray:
    return (np.random.default_rng(step).integers(0, 96, (8, 1)) + np.arange(17)) % 96


def select(candidates: list[str], num_steps: int = 3) -> tuple[Selection, list[dict[str, Any]]]:
    config = OperatorConfig(name="auto", candidates=candidates, trial_steps=num_steps)
    plans = {name: plan_growth(tiny_config(), WANTED, build(config, name)) for name in candidates}
    small = on_disk_weights(lively_model(next(iter(plans.values())).small, "float32"))
    log: list[dict[str, Any]] = []
    selection = select_operator(
        plans, small.__getitem__, windows, [windows(100)], TRAINING, log.append,
        objective=make_objective(plans[candidates[0]].target), num_steps=num_steps, sequence_length=16, noise=NoiseLevel(), seed=0,
    )  # fmt: skip
    return selection, log


def test_the_lowest_loss_after_the_trial_wins() -> None:
    selection, log = select(["shrink_perturb", "exact", "bert2bert"])
    assert selection.chosen == min(selection.losses, key=selection.losses.get)
    assert selection.losses["exact"] < selection.losses["bert2bert"]
    assert all(selection.losses[name] < selection.start_losses[name] for name in selection.losses)
    assert [record["step"] for record in log] == [1, 2, 3]


def test_every_candidate_is_charged() -> None:
    alone, _ = select(["exact"])
    both, _ = select(["exact", "interpolate"])
    assert alone.tokens == 3 * 128
    assert both.tokens == 2 * alone.tokens
    assert both.flops == pytest.approx(2 * alone.flops)
    plan = plan_growth(tiny_config(), WANTED, build(OperatorConfig()))
    per_token = model_flops(plan.target, 16)
    assert alone.flops == per_token.training * 3 * 128 + 2 * per_token.forward * 128 + plan.build_flops(
        plan.maps
    )
    assert both.losses["exact"] == alone.losses["exact"]  # candidates do not touch each other


def test_a_candidate_that_is_not_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"operator.candidates=stak is not(.|\n)*Try: operator.candidates=stack"
    ):
        check(OperatorConfig(name="auto", candidates=["exact", "stak"]))
