"""Exact growth of LLaMA: shape rules, noise, broken symmetry, and refusals with the rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from ligo.core.errors import PlanError
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import plan_growth
from ligo.operators.noise_level import NO_NOISE, NoiseLevel
from tests.conftest import tiny_config
from tests.growing import (
    EXACT_FLOAT32,
    EXACT_FLOAT64,
    grow,
    grow_model,
    lively_model,
    on_disk_weights,
    operator,
)  # fmt: skip

TWICE = dict(hidden_size=64, num_layers=4, num_heads=8, num_kv_heads=4, ffn_size=96)
UNEVEN = dict(hidden_size=48, num_layers=5, num_heads=6, num_kv_heads=3, ffn_size=65)
GROWTHS = {
    "twice everything": TWICE,
    "odd width": UNEVEN,
    "the ratios of 7B -> 13B": dict(hidden_size=40, num_layers=3, num_heads=5, num_kv_heads=5, ffn_size=60),
    "query heads only": dict(num_heads=8),
    "key/value heads only": dict(num_kv_heads=4),
    "FFN only": dict(ffn_size=72),
    "residual only": dict(hidden_size=44),
    "larger heads": dict(head_dim=24),
    "more tokens": dict(vocab_size=120),
    "everything at once": dict(UNEVEN, head_dim=16, vocab_size=100),
}
EXACT = [
    (name, width)
    for name in GROWTHS
    for width in ("scaled_duplication", "lemon", "pad", "isometry")
    if (name, width) != ("key/value heads only", "pad")  # refused: below
]
MULTI_HEAD = {"the ratios of 7B -> 13B"}  # 5 heads cannot be in 2 groups: this one has no groups


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("name", "width"), EXACT)
def test_exact_growth_computes_the_same_function(name: str, width: str, tied: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied, num_key_value_heads=4 if name in MULTI_HEAD else 2)
    plan = plan_growth(config, GROWTHS[name], operator(width))
    assert plan.exactness.exact
    assert grow_model(plan).difference() <= EXACT_FLOAT64
    assert grow_model(plan, dtype="float32").difference() <= EXACT_FLOAT32


def test_a_head_that_cannot_stay_tied_is_untied_in_the_plans_words() -> None:
    grown = grow(tiny_config(tie_word_embeddings=True), UNEVEN, "isometry")
    assert grown.plan.target_config["tie_word_embeddings"] is False
    assert "the output head is untied" in grown.plan.notes[0]
    assert "lm_head.weight" in grown.plan.job_of
    kept = grow(tiny_config(tie_word_embeddings=True), dict(num_layers=3), "isometry")
    assert kept.plan.target_config["tie_word_embeddings"] is True
    assert kept.plan.notes == ()


def test_zero_blocks_alone_change_not_a_single_bit() -> None:
    """LLaMA Pro's insertion, before any width grows."""
    assert grow(tiny_config(), dict(num_layers=4), dtype="float32").difference() == 0.0


@pytest.mark.parametrize(
    ("width", "wanted", "words"),
    [
        ("hypercloning", UNEVEN, "needs whole width ratios, but residual 32 -> 48 is 1.5"),
        ("pad", dict(num_kv_heads=4), "keeps the 2 query heads of each key/value head"),
    ],
)
def test_an_operator_that_cannot_do_it_says_which_rule_is_broken(
    width: str, wanted: dict[str, int], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        plan_growth(tiny_config(), wanted, operator(width))


def _after_five_steps(grown: Any) -> tuple[float, float]:
    """Relative differences of copied FFN rows and of the columns that read copied heads."""
    model, optimizer = grown.model, torch.optim.AdamW(grown.model.parameters(), lr=1e-3)
    tokens = torch.randint(0, 96, (4, 33), generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    gate = model.model.layers[0].mlp.gate_proj.weight.detach()
    heads = model.model.layers[0].self_attn.o_proj.weight.detach()
    pairs = ((gate[:48], gate[48:]), (heads[:, :32], heads[:, 32:]))  # copies of heads are two groups apart
    ffn, head = (float((copy - first).norm() / first.norm()) for first, copy in pairs)
    return ffn, head


@pytest.mark.parametrize("tied", [True, False])
def test_copies_differ_after_five_steps_with_noise(tied: bool) -> None:
    grown = grow(tiny_config(tie_word_embeddings=tied), TWICE, dtype="float32", noise=1.0)
    assert min(_after_five_steps(grown)) > 1e-3


def test_copies_stay_equal_without_noise() -> None:
    """The control: every gradient stays in the span of the copies."""
    grown = grow(tiny_config(tie_word_embeddings=True), TWICE, dtype="float32", noise=0.0)
    assert max(_after_five_steps(grown)) < 1e-5


def test_uneven_shares_break_the_symmetry_without_noise() -> None:
    grown = grow(tiny_config(tie_word_embeddings=True), TWICE, "lemon", dtype="float32", noise=0.0)
    gate = grown.model.model.layers[0].mlp.gate_proj.weight
    torch.testing.assert_close(gate[:48], gate[48:])
    ffn, _ = _after_five_steps(grown)
    assert ffn > 1e-4


def test_padded_units_are_alive() -> None:
    """What is read with zero is written at random: were both zero, no gradient would ever reach either."""
    model = grow(tiny_config(), dict(TWICE, num_layers=2), "pad", dtype="float32").model
    tokens = torch.randint(0, 96, (4, 33), generator=torch.Generator().manual_seed(1))
    model(input_ids=tokens, labels=tokens).loss.backward()
    layer = model.model.layers[0]
    assert float(layer.mlp.down_proj.weight.grad[:, 48:].abs().min(dim=0).values.max()) > 0
    assert not layer.mlp.down_proj.weight[:, 48:].any()
    assert float(layer.self_attn.o_proj.weight.grad[:, 32:].abs().max()) > 0


def test_noise_depends_on_seed_and_name_alone() -> None:
    plan = plan_growth(tiny_config(), TWICE, operator())
    read = on_disk_weights(lively_model(plan.small, "float32")).__getitem__

    def run(seed: int) -> dict[str, torch.Tensor]:
        return dict(grow_tensors(plan, plan.maps, read, dtype=torch.float32, noise=NoiseLevel(), seed=seed))

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
        (dict(num_heads=5, hidden_size=40), "do not divide into 2 key/value heads"),
        (dict(hidden_size=33), "not a multiple of 4 query heads"),
        (
            dict(head_dim=12),
            "rotary frequencies of the two coincide only where the size grows by a whole factor",
        ),
        (dict(vocab_size=64), "vocab_size 96 -> 64"),
    ],
)
def test_shapes_that_cannot_be_are_refused_with_the_rule(wanted: dict[str, int], words: str) -> None:
    with pytest.raises(PlanError, match="Try") as error:
        plan_growth(tiny_config(), wanted, operator())
    assert words in str(error.value)


def test_query_heads_that_would_be_lost_are_named() -> None:
    config = tiny_config(num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    with pytest.raises(PlanError) as error:
        plan_growth(config, dict(num_heads=9, num_kv_heads=3, hidden_size=72), operator())
    assert "query heads [7] of the small model would be lost" in str(error.value)
    assert "target.num_attention_heads=12" in str(error.value)


def test_layer_types_go_with_their_layers() -> None:
    config = tiny_config(layer_types=["sliding_attention", "full_attention"])
    plan = plan_growth(config, dict(num_layers=4), operator())
    assert plan.target_config["layer_types"] == ["sliding_attention"] * 2 + ["full_attention"] * 2
    stacked = plan_growth(config, dict(num_layers=4), operator(depth="stack"))
    assert stacked.target_config["layer_types"] == ["sliding_attention", "full_attention"] * 2


def test_a_plan_is_plain_data_and_the_same_every_time() -> None:
    first, second = (json.dumps(plan_growth(tiny_config(), UNEVEN, operator()).as_json()) for _ in range(2))
    assert first == second
    assert json.loads(first)["layers"]["identity_blocks"] == [1, 3, 4]


def test_growing_twice_by_whole_factors_gives_the_weights_of_growing_once() -> None:
    middle = grow(tiny_config(), TWICE, noise=0.0)
    factor_four = dict(hidden_size=128, num_layers=8, num_heads=16, num_kv_heads=8, ffn_size=192)
    twice = plan_growth(middle.plan.target_config, factor_four, operator())
    once = plan_growth(tiny_config(), factor_four, operator())
    reads = (on_disk_weights(model).__getitem__ for model in (middle.model, middle.small))
    first, second = (
        dict(grow_tensors(plan, plan.maps, read, dtype=torch.float64, noise=NO_NOISE, seed=0))
        for plan, read in zip((twice, once), reads, strict=True)
    )
    for name, tensor in second.items():
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=EXACT_FLOAT64)
