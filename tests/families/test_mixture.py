"""Mixtures of experts: dense models that grow into one, one that grows into a larger, and how the stock model runs it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import family_of
from ligo.families.stock import as_on_disk, as_running, fresh_model, skeleton
from ligo.growth.plan import plan_growth
from tests.families.tiny import RMS_DECODERS
from tests.growing import EXACT_FLOAT32, EXACT_FLOAT64, grow, lively_model, on_disk_weights, operator

DENSE = [name for name in RMS_DECODERS if name.split()[0] in ("llama", "mistral", "qwen3")]
BECOME_MIXTURES = [name for name in DENSE if name not in ("llama biases", "qwen3 sliding")]
ALL_SLIDE = {**RMS_DECODERS["qwen3 sliding"], "max_window_layers": 0}
UNEVEN = dict(hidden_size=48, num_layers=3, num_heads=12, num_kv_heads=4, ffn_size=68)
MIXTURES = ["mixtral", "mixtral tied", "qwen3_moe"]


# --- a dense model becomes a mixture -----------------------------------------------------------------


@pytest.mark.parametrize("wider", [{}, UNEVEN], ids=["experts only", "everything"])
@pytest.mark.parametrize("name", BECOME_MIXTURES)
def test_a_dense_model_grows_exactly_into_a_mixture(name: str, wider: dict[str, int]) -> None:
    grown = grow(RMS_DECODERS[name], dict(num_experts=3, **wider))
    assert grown.plan.target.dims.experts_per_token == 2
    assert grown.plan.exactness.exact
    assert grown.difference() <= EXACT_FLOAT64


def test_a_window_of_all_layers_is_carried_over() -> None:
    grown = grow(ALL_SLIDE, dict(num_experts=4))
    assert grown.plan.target_config["use_sliding_window"] is True
    assert grown.difference() <= EXACT_FLOAT64


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_fused_experts_agree_in_float32(name: str) -> None:
    grown = grow(RMS_DECODERS[name], dict(num_experts=4, **UNEVEN), dtype="float32")
    assert grown.model.config._experts_implementation == "grouped_mm"
    assert grown.difference() <= EXACT_FLOAT32


def test_experts_are_copies_that_differ_where_nothing_sees_it_and_routers_are_fresh() -> None:
    grown = grow(RMS_DECODERS["llama"], dict(num_experts=4, hidden_size=48))
    weights, at = on_disk_weights(grown.model), "model.layers.0.block_sparse_moe"
    first, second = (weights[f"{at}.experts.{expert}.w1.weight"] for expert in (0, 1))
    assert not torch.equal(first, second)
    quiet = on_disk_weights(grow(RMS_DECODERS["llama"], dict(num_experts=4, hidden_size=48), noise=0.0).model)
    assert torch.equal(quiet[f"{at}.experts.0.w2.weight"], quiet[f"{at}.experts.3.w2.weight"])
    assert 0.5 < float(quiet[f"{at}.gate.weight"].std()) / 0.02 < 1.5
    assert grown.plan.notes == ("drawn fresh: block_sparse_moe.gate",)
    assert grown.plan.job_of[f"{at}.experts.2.w3.weight"].sources == ("model.layers.0.mlp.up_proj.weight",)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3"])
def test_what_transformers_fills_in_for_the_dense_model_is_written_for_the_mixture(model_type: str) -> None:
    config = {
        "model_type": model_type, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "vocab_size": 96, "num_key_value_heads": 2,
    }  # fmt: skip
    dense = AutoConfig.for_model(**config)
    mixture = AutoConfig.for_model(**plan_growth(config, dict(num_experts=4), operator()).target_config)
    keys = ("hidden_act", "max_position_embeddings", "rms_norm_eps", "head_dim", "rope_parameters",
            "tie_word_embeddings", "num_key_value_heads")  # fmt: skip
    assert {key: getattr(mixture, key) for key in keys} == {key: getattr(dense, key) for key in keys}
    assert mixture.sliding_window == getattr(dense, "sliding_window", None)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
)
def test_the_rope_is_carried_over(rope: dict[str, Any]) -> None:
    config = {**RMS_DECODERS["llama"], **rope}
    target = plan_growth(config, dict(num_experts=4), operator()).target_config
    assert AutoConfig.for_model(**target).rope_parameters == AutoConfig.for_model(**config).rope_parameters


@pytest.mark.parametrize(
    ("config", "wanted", "words"),
    [
        (RMS_DECODERS["llama biases"], dict(num_experts=4), "attention_bias=true, and Mixtral has no biases"),
        (RMS_DECODERS["qwen3 sliding"], dict(num_experts=4), "attend in 2 ways(.|\n)*Qwen3Moe all alike"),
        (RMS_DECODERS["gemma2"], dict(num_experts=4), "Gemma2 models.\n  Known: llama -> mixtral, .*qwen3 -> qwen3_moe"),
        (RMS_DECODERS["llama"], dict(num_experts=4, experts_per_token=5), "experts_per_token=5, and the target has 4"),
        (RMS_DECODERS["llama"], dict(experts_per_token=2), "neither the small model nor the target has experts"),
        (RMS_DECODERS["mixtral"], dict(experts_per_token=5), "experts_per_token=5, and the target has 4"),
        (RMS_DECODERS["mixtral"], dict(num_experts=3), "num_experts 4 -> 3"),
        (RMS_DECODERS["mixtral"], dict(ffn_size=65), "intermediate_size 65 is not a multiple of 4(.|\n)*=72"),
        (RMS_DECODERS["qwen3"], dict(num_experts=3, hidden_size=38), "hidden_size 38 is not a multiple of 4(.|\n)*=40"),
    ],
)  # fmt: skip
def test_mixtures_that_cannot_be_are_refused(
    config: dict[str, Any], wanted: dict[str, int], words: str
) -> None:
    with pytest.raises(PlanError, match="Try") as error:
        plan_growth(config, wanted, operator())
    assert re.search(words, str(error.value))


# --- a mixture becomes a larger one ------------------------------------------------------------------


@pytest.mark.parametrize("weights_sum_to_one", [True, False])
@pytest.mark.parametrize("name", MIXTURES)
def test_more_experts_are_exact_where_a_token_finds_all_copies(name: str, weights_sum_to_one: bool) -> None:
    config = {**RMS_DECODERS[name], "norm_topk_prob": weights_sum_to_one}
    for factor, wider in ((2, {}), (3, UNEVEN)):
        grown = grow(config, dict(num_experts=4 * factor, experts_per_token=2 * factor, **wider))
        assert grown.plan.exactness.exact
        assert grown.difference() <= EXACT_FLOAT64


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (dict(num_experts=8), "2 of 4 -> 2 of 8"),
        (dict(num_experts=6, experts_per_token=3), "2 of 4 -> 3 of 6"),
        (dict(experts_per_token=3), "2 of 4 -> 3 of 4"),
    ],
)
@pytest.mark.parametrize("name", MIXTURES)
def test_other_numbers_of_experts_are_not_exact_and_say_so(
    name: str, wanted: dict[str, int], words: str
) -> None:
    grown = grow(RMS_DECODERS[name], wanted)
    assert not grown.plan.exactness.exact
    assert words in grown.plan.exactness.reason
    assert grown.difference() > EXACT_FLOAT32


def test_routers_keep_their_choice_under_noise() -> None:
    config = RMS_DECODERS["mixtral"]
    grown = grow(config, dict(num_experts=8, experts_per_token=4, hidden_size=64))
    weights = on_disk_weights(grown.model)
    gate = weights["model.layers.0.block_sparse_moe.gate.weight"]
    assert not torch.equal(gate[:4], gate[4:])  # copies differ, and yet the two are always taken together
    assert grown.difference() <= EXACT_FLOAT64


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_either_name_of_the_number_of_experts_is_read_and_one_is_written(name: str, key: str) -> None:
    config = {k: v for k, v in RMS_DECODERS[name].items() if k not in ("num_experts", "num_local_experts")}
    plan = plan_growth({**config, key: 4}, dict(num_experts=8), operator())
    assert plan.small.dims.num_experts == 4
    assert len({"num_experts", "num_local_experts"} & plan.target_config.keys()) == 1
    assert AutoConfig.for_model(**plan.target_config).num_local_experts == 8


# --- the running model -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXTURES)
def test_tensors_on_disk_are_joined_as_transformers_joins_them(name: str) -> None:
    model = lively_model(family_of(RMS_DECODERS[name]))
    running = dict(model.named_parameters())
    joined = as_running(skeleton(family_of(RMS_DECODERS[name])), as_on_disk(model, running))
    assert joined.keys() == running.keys()
    assert all(torch.equal(joined[key], running[key]) for key in running)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_gradients_reach_every_tensor_on_disk(name: str) -> None:
    family = family_of(RMS_DECODERS[name])
    leaves = {
        key: tensor.clone().requires_grad_()
        for key, tensor in on_disk_weights(lively_model(family, "float32")).items()
    }
    model = skeleton(family)
    output = torch.func.functional_call(
        model, as_running(model, leaves), (), {"input_ids": torch.arange(48)[None]}
    )
    output.logits.square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in leaves.values())


def test_a_missing_expert_is_named() -> None:
    model = fresh_model(family_of(RMS_DECODERS["mixtral"]))
    weights, lost = on_disk_weights(model), "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    del weights[lost]
    with pytest.raises(CheckpointError, match=f"{lost} is missing(.|\n)*Try"):
        as_running(model, weights)
