"""Learning begins at the start's function, never ends above its loss, and is written as it was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ligo.core.errors import CheckpointError
from ligo.families.base import family_of
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.learning.fit import LearnedOperator, learn_operator, warmup_cosine
from ligo.learning.functional import (
    LearnedMaps,
    causal_lm_loss,
    detached,
    folded_small,
    grown_parameters,
    skeleton,
)
from ligo.learning.state import load_maps, save_operator
from ligo.operators.config import OperatorConfig, build
from tests.conftest import random_model, tiny_config

WANTED = dict(hidden_size=48, num_layers=3, num_heads=6, num_kv_heads=3, ffn_size=64)


def plan_with(config: OperatorConfig, *, tied: bool = True, **wanted: int) -> GrowthPlan:
    small = tiny_config(tie_word_embeddings=tied)
    return plan_growth(small, wanted or WANTED, build(config))


def small_weights(plan: GrowthPlan) -> dict[str, torch.Tensor]:
    return random_model(plan.small_config, "float32").state_dict()


def windows(step: int) -> np.ndarray:
    """Text with something to learn: each token is followed by its successor, mostly."""
    rng = np.random.default_rng(step)
    starts = rng.integers(0, 96, (8, 1))
    return (starts + np.arange(17)) % 96


def learn(plan: GrowthPlan, **changes: Any) -> tuple[LearnedOperator, list[dict[str, Any]]]:
    config = OperatorConfig(
        **{"name": "ligo", "init": "exact", "steps": 12, "evaluate_every": 4, "eta": 0.3, **changes}
    )
    log: list[dict[str, Any]] = []
    learned = learn_operator(
        plan, small_weights(plan), windows, [windows(100), windows(101)], config, log.append, seed=0
    )
    return learned, log


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("start", ["exact", "stack", "pad", "bert2bert", "midas"])
def test_learning_begins_at_the_start(start: str, tied: bool) -> None:
    plan = plan_with(OperatorConfig(init=start), tied=tied)
    model, small, tokens = skeleton(plan.target_config), small_weights(plan), torch.from_numpy(windows(0))
    with torch.no_grad():
        at_start = grown_parameters(plan, plan.maps, small)
        maps = LearnedMaps(plan)()
        learned = grown_parameters(plan, maps, folded_small(plan, maps, small))
        # gains are folded into their readers in one and copied in the other: the same function
        assert float(causal_lm_loss(model, learned, tokens)) == pytest.approx(
            float(causal_lm_loss(model, at_start, tokens)), abs=1e-5
        )


def test_every_map_gets_a_gradient() -> None:
    plan = plan_with(OperatorConfig(init="exact"))
    learned = LearnedMaps(plan)
    loss = causal_lm_loss(
        skeleton(plan.target_config),
        grown_parameters(plan, learned(), small_weights(plan)),
        torch.from_numpy(windows(0)),
    )
    loss.backward()
    silent = [name for name, p in learned.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_gradient_of_the_residual_map_agrees_with_finite_differences() -> None:
    plan = plan_with(OperatorConfig(init="exact"))
    small = {name: tensor.double() for name, tensor in small_weights(plan).items()}
    learned = LearnedMaps(plan).double()
    parameter = learned.expand["residual"]

    def value() -> torch.Tensor:
        weights = grown_parameters(plan, learned(), small)
        return sum((w * torch.linspace(-1, 1, w.numel()).reshape(w.shape)).sum() for w in weights.values())

    value().backward()
    step = 1e-6
    with torch.no_grad():
        for index in ((0, 0), (40, 3)):
            parameter[index] += step
            above = float(value())
            parameter[index] -= 2 * step
            below = float(value())
            parameter[index] += step
            assert float(parameter.grad[index]) == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_learning_lowers_the_loss_and_counts_its_cost() -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    learned, log = learn(plan, init="stack")
    assert learned.best_loss < learned.start_loss - 0.05
    assert learned.best_step > 0
    assert learned.tokens == 12 * 8 * 16
    flops = [record["flops"] for record in log]
    assert flops == sorted(flops)
    assert learned.flops > flops[-1]  # the evaluation that checked the noise is charged too
    assert [r["step"] for r in log if "eval/loss" in r] == [0, 4, 8, 12]


def test_learning_that_makes_things_worse_leaves_the_start() -> None:
    plan = plan_with(OperatorConfig(init="exact"))
    learned, _ = learn(plan, eta=50.0)
    assert learned.best_step == 0
    assert learned.best_loss == learned.start_loss
    assert learned.maps is plan.maps


def test_what_was_learned_is_what_is_written(tmp_path: Path) -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    learned, _ = learn(plan, init="stack", noise=0.0)
    save_operator(tmp_path / "operator.safetensors", plan, learned)
    loaded = load_maps(tmp_path / "operator.safetensors", plan)
    small = small_weights(plan)
    with torch.no_grad():
        in_learning = grown_parameters(plan, learned.maps, folded_small(plan, learned.maps, small))
    written = dict(grow_tensors(plan, loaded, small.__getitem__, dtype=torch.float32, noise=0.0, seed=0))
    for name, tensor in written.items():
        assert torch.equal(tensor, in_learning[name]), name  # bit for bit


def test_a_learned_model_loads_into_the_stock_class_with_the_loss_that_was_kept() -> None:
    plan = plan_with(OperatorConfig(init="stack"))
    learned, _ = learn(plan, init="stack")
    written = dict(
        grow_tensors(
            plan, learned.maps, small_weights(plan).__getitem__, dtype=torch.float32, noise=1.0, seed=0
        )
    )
    model = random_model(plan.target_config, "float32")
    assert model.load_state_dict(written, strict=False).unexpected_keys == []
    with torch.no_grad():
        losses = [
            float(causal_lm_loss(model, dict(model.named_parameters()), torch.from_numpy(windows(i))))
            for i in (100, 101)
        ]
    assert sum(losses) / 2 == pytest.approx(learned.best_loss, abs=1e-5)


def test_an_operator_of_another_plan_is_refused(tmp_path: Path) -> None:
    plan, other = (
        plan_with(OperatorConfig(init="stack")),
        plan_with(OperatorConfig(init="stack"), ffn_size=70),
    )
    learned, _ = learn(plan, init="stack", steps=1)
    save_operator(tmp_path / "operator.safetensors", plan, learned)
    with pytest.raises(CheckpointError, match="learned for another growth plan"):
        load_maps(tmp_path / "operator.safetensors", other)
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot read the operator broken.safetensors"):
        load_maps(tmp_path / "broken.safetensors", plan)


def test_step_sizes_follow_the_shape_of_each_map() -> None:
    learned = LearnedMaps(plan_with(OperatorConfig(init="exact")))
    depth, *maps = learned.parameter_groups(eta=0.1, depth_lr=2e-3)
    assert depth["lr"] == 2e-3
    for group in maps:
        rows, columns = group["params"][0].shape
        assert group["lr"] * (rows * columns) ** 0.5 == pytest.approx(0.1)


def test_the_schedule_fits_the_steps_there_are() -> None:
    factors = [warmup_cosine(step, 40, 0.1) for step in range(40)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[-1] < 0.01


def test_maps_without_gradients_are_the_same_maps() -> None:
    plan = plan_with(OperatorConfig(init="exact"))
    learned = LearnedMaps(plan)()
    fixed = detached(learned)
    for name, space_map in learned.spaces.items():
        np.testing.assert_array_equal(space_map.expand.matrix(), fixed.spaces[name].expand.matrix())
        assert not getattr(fixed.spaces[name].expand, "values", torch.zeros(0)).requires_grad
