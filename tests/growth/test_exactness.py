"""Exact where it says so: float64 algebra on stock models, every shape rule, noise included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ligo.core.errors import PlanError
from ligo.families.base import family_of
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.growth.verify import use_double_norms
from ligo.operators.config import OperatorConfig, build
from tests.conftest import random_model, tiny_config

EXACT_FLOAT64 = 1e-12  # rounding of a float64 forward at logits of about 3
EXACT_FLOAT32 = 5e-5  # the same in float32

GROWTHS = {
    "twice everything": dict(hidden_size=64, num_layers=4, num_heads=8, num_kv_heads=4, ffn_size=96),
    "the ratios of 7B -> 13B": dict(hidden_size=40, num_layers=3, num_heads=5, num_kv_heads=5, ffn_size=60),
    "odd width": dict(hidden_size=48, num_layers=5, num_heads=6, num_kv_heads=3, ffn_size=65),
    "depth only": dict(num_layers=5),
    "heads only": dict(num_heads=8, num_kv_heads=4),
    "query heads only": dict(num_heads=8),
    "key/value heads only": dict(num_kv_heads=4),
    "FFN only": dict(ffn_size=72),
    "residual only": dict(hidden_size=44),
}
INTEGER = ("twice everything", "heads only", "key/value heads only", "query heads only")
NO_RESIDUAL = ("depth only", "heads only", "FFN only")
EXACT = [
    *((name, "exact") for name in GROWTHS),
    *((name, "pad") for name in GROWTHS if name != "key/value heads only"),
    *((name, "hypercloning") for name in INTEGER),
    *((name, "net2net") for name in NO_RESIDUAL),
]
MULTI_HEAD = {"the ratios of 7B -> 13B"}  # 5 heads cannot be in 2 groups: this one has no groups


def plan_for(name: str, *, tied: bool, operator: str = "exact") -> GrowthPlan:
    kv_heads = 4 if name in MULTI_HEAD else 2
    config = tiny_config(tie_word_embeddings=tied, num_key_value_heads=kv_heads)
    preset = {
        "exact": OperatorConfig(),
        "stack": OperatorConfig(depth="stack"),
        **{width: OperatorConfig(width=width) for width in ("pad", "hypercloning", "net2net")},
    }[operator]
    return plan_growth(config, GROWTHS[name], build(preset))


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def grown_and_small(plan: GrowthPlan, dtype: str, noise: float = 1.0) -> tuple[Any, Any]:
    small = random_model(plan.small_config, dtype)
    grown = random_model(plan.target_config, dtype, seed=1)
    weights = dict(
        grow_tensors(
            plan, plan.maps, small.state_dict().__getitem__, dtype=getattr(torch, dtype), noise=noise, seed=3
        )
    )
    missing, unexpected = grown.load_state_dict(weights, strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if plan.small.dims.tied else [])
    return grown, small


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("name", "operator"), EXACT)
def test_exact_growth_computes_the_same_function(name: str, operator: str, tied: bool) -> None:
    plan = plan_for(name, tied=tied, operator=operator)
    assert plan.exactness.exact
    tokens = torch.randint(0, 96, (2, 32), generator=torch.Generator().manual_seed(0))
    for dtype, tolerance in (("float64", EXACT_FLOAT64), ("float32", EXACT_FLOAT32)):
        grown, small = grown_and_small(plan, dtype)
        if dtype == "float64":
            use_double_norms(grown)
            use_double_norms(small)
        expected, found = logits(small, tokens), logits(grown, tokens)
        scale = max(1.0, float(expected.abs().max()) / 3)
        assert float(expected.abs().max()) > 1, "the test model must not be trivial"
        assert float((found - expected).abs().max()) <= tolerance * scale


def test_stacked_depth_is_declared_inexact_and_is() -> None:
    plan = plan_for("twice everything", tied=True, operator="stack")
    assert not plan.exactness.exact
    assert "copied layers are applied twice" in plan.exactness.reason
    tokens = torch.arange(32)[None]
    grown, small = grown_and_small(plan, "float32")
    assert float((logits(grown, tokens) - logits(small, tokens)).abs().max()) > 0.1


def test_unscaled_copies_at_an_uneven_ratio_are_declared_inexact_and_are() -> None:
    plan = plan_for("odd width", tied=False, operator="net2net")
    assert not plan.exactness.exact
    assert "unscaled copies" in plan.exactness.reason
    grown, small = grown_and_small(plan, "float32")
    tokens = torch.arange(32)[None]
    assert float((logits(grown, tokens) - logits(small, tokens)).abs().max()) > 0.05


@pytest.mark.parametrize(
    ("operator", "name", "words"),
    [
        ("hypercloning", "odd width", "needs whole width ratios, but residual 32 -> 48 is 1.5"),
        ("pad", "key/value heads only", "keeps the 2 query heads of each key/value head"),
    ],
)
def test_an_operator_that_cannot_do_it_says_which_rule_is_broken(
    operator: str, name: str, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        plan_for(name, tied=True, operator=operator)


@pytest.mark.parametrize("noise", [1.0, 0.0])
def test_copies_differ_after_five_steps_only_with_noise(noise: float) -> None:
    plan = plan_for("twice everything", tied=True)
    grown, _ = grown_and_small(plan, "float32", noise=noise)
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-3)
    tokens = torch.randint(0, 96, (4, 33), generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        optimizer.zero_grad()
        grown(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    gate = grown.model.layers[0].mlp.gate_proj.weight.detach()
    heads = grown.model.layers[0].self_attn.o_proj.weight.detach()
    first, copy = gate[:48], gate[48:]
    relative = float((first - copy).norm() / first.norm())
    # residual copies are read alike too: columns of o_proj belong to heads, 8 wide, copies 2 groups apart
    head_difference = float((heads[:, :32] - heads[:, 32:]).norm() / heads[:, :32].norm())
    if noise:
        assert relative > 1e-3
        assert head_difference > 1e-3
    else:
        assert relative < 1e-5
        assert head_difference < 1e-5


def test_noise_depends_on_seed_and_name_alone() -> None:
    plan = plan_for("twice everything", tied=False)
    read = random_model(plan.small_config, "float32").state_dict().__getitem__

    def run(seed: int) -> dict[str, torch.Tensor]:
        return dict(grow_tensors(plan, plan.maps, read, dtype=torch.float32, noise=1.0, seed=seed))

    again, other = run(0), run(1)
    assert all(torch.equal(tensor, again[name]) for name, tensor in run(0).items())
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(again[name], other[name])


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (dict(hidden_size=16), "smaller than the small model: hidden_size 32 -> 16"),
        (dict(num_layers=1, ffn_size=8), "num_layers 2 -> 1, ffn_size 48 -> 8"),
        (dict(), "nothing to grow"),
        (dict(num_heads=5), "do not divide into 2 key/value heads"),
        (dict(hidden_size=33), "not a multiple of 4 query heads"),
        (dict(num_kv_heads=3, num_heads=6), ""),
    ],
)
def test_shapes_that_cannot_be_are_refused_with_the_rule(wanted: dict[str, int], words: str) -> None:
    config = tiny_config()
    if wanted.get("num_heads") == 5:
        wanted = {**wanted, "hidden_size": 40}
    if not words:  # a valid, uneven growth: groups of 2 stay groups of 2
        plan_growth(config, {**wanted, "hidden_size": 36}, build(OperatorConfig()))
        return
    with pytest.raises(PlanError, match="Try") as error:
        plan_growth(config, wanted, build(OperatorConfig()))
    assert words in str(error.value)


def test_query_heads_that_would_be_lost_are_named() -> None:
    config = tiny_config(num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    wanted = dict(num_heads=9, num_kv_heads=3, hidden_size=72)
    with pytest.raises(PlanError) as error:
        plan_growth(config, wanted, build(OperatorConfig()))
    assert "query heads [7] of the small model would be lost" in str(error.value)
    assert "target.num_attention_heads=12" in str(error.value)


def test_a_plan_is_plain_data_and_the_same_every_time() -> None:
    import json

    first, second = (json.dumps(plan_for("odd width", tied=True).as_json()) for _ in range(2))
    assert first == second
    assert json.loads(first)["layers"]["identity_blocks"] == [1, 2, 4]
