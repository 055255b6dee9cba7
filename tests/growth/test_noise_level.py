"""How large null-space noise is: it answers as large as what copies are copies of. They part, and rounding stays small."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ligo.growth.execute import grow_tensors
from ligo.growth.noise import init_deviation, noise_deviation
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.operators.noise_level import NO_NOISE, NoiseLevel
from tests.conftest import tiny_config
from tests.families.tiny import RMS_DECODERS
from tests.growing import EXACT_FLOAT32, grow, lively_model, on_disk_weights, operator

WIDER = dict(hidden_size=64, num_heads=8, num_kv_heads=4, ffn_size=96)


@pytest.fixture
def plan() -> GrowthPlan:
    return plan_growth(RMS_DECODERS["llama"], {**WIDER, "num_layers": 3}, operator(depth="noisy_stack"))


def test_noise_answers_as_large_as_what_a_tensor_is_made_of(plan: GrowthPlan) -> None:
    weights = on_disk_weights(lively_model(plan.small))
    wider = {"embed_tokens": 1.0, "down_proj": 96 / 48}  # of what is read: the vocabulary, the FFN
    for job in plan.jobs:
        squares = [float(weights[name].square().mean()) for name in job.sources]
        grown = next((wide for name, wide in wider.items() if name in job.spec.name), 64 / 32)
        expected = math.sqrt(sum(squares) / len(squares) / (grown if len(job.shape) > 1 else 1))
        assert noise_deviation(NoiseLevel(), job, plan, weights.__getitem__) == pytest.approx(expected)
        assert noise_deviation(NoiseLevel(0.5), job, plan, weights.__getitem__) == pytest.approx(expected / 2)
    assert any(len(job.sources) > 1 for job in plan.jobs)


def test_a_large_tensor_is_judged_by_some_of_its_rows(
    plan: GrowthPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ligo.growth.noise._NUMBERS_PER_DRAW", 300)
    weights = on_disk_weights(lively_model(plan.small))
    job = plan.job_of["model.embed_tokens.weight"]
    (name,) = job.sources
    some = noise_deviation(NoiseLevel(), job, plan, weights.__getitem__)
    assert some != pytest.approx(float(weights[name].square().mean().sqrt()), rel=1e-9)
    assert some == pytest.approx(float(weights[name].square().mean().sqrt()), rel=0.2)


@pytest.mark.parametrize("level", [NoiseLevel(2.0, "fresh"), NoiseLevel(2.0)])
def test_fresh_noise_and_that_of_a_tensor_of_zeros_is_as_large_as_fresh_weights(
    plan: GrowthPlan, level: NoiseLevel
) -> None:
    def read(name: str) -> Tensor:
        value = 1.0 if level.unit == "fresh" else 0.0
        return torch.full(plan.small.by_name[name].shape(plan.small.spaces), value)

    for job in plan.jobs:
        assert noise_deviation(level, job, plan, read) == 2 * init_deviation(plan)


def test_what_is_added_has_that_deviation() -> None:
    plan = plan_growth(RMS_DECODERS["llama"], WIDER, operator())
    weights = on_disk_weights(lively_model(plan.small))

    def grown(noise: NoiseLevel) -> dict[str, Tensor]:
        return dict(
            grow_tensors(plan, plan.maps, weights.__getitem__, dtype=torch.float64, noise=noise, seed=0)
        )

    noisy, quiet = grown(NoiseLevel()), grown(NO_NOISE)
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
        added = float((noisy[name] - quiet[name]).square().mean().sqrt())
        # of two copies, half of what is drawn is in the directions that are seen, and taken away
        assert added == pytest.approx(
            math.sqrt(0.5) * float(weights[name].square().mean().div(2).sqrt()), rel=0.1
        )


@pytest.mark.parametrize("times", [2, 4])
def test_rounding_stays_small_in_a_deep_model_and_does_not_under_larger_noise(times: int) -> None:
    deep, wider = tiny_config(num_hidden_layers=12), {key: size // 2 * times for key, size in WIDER.items()}
    assert grow(deep, wider, dtype="float32", noise=1.0).difference() < EXACT_FLOAT32
    assert grow(deep, wider, dtype="float32", noise=4.0).difference() > 1e-3
