"""The LLaMA table against the stock model and the published sizes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import Family, family_of
from ligo.families.spec import TensorSpec, writes
from ligo.families.stock import check_coverage
from ligo.growth.plan import plan_growth
from tests.conftest import tiny_config
from tests.growing import operator


@pytest.mark.parametrize("tied", [True, False])
def test_table_matches_the_stock_model_both_ways(tied: bool) -> None:
    check_coverage(family_of(tiny_config(tie_word_embeddings=tied)))


def test_biases_are_in_the_table_and_end_their_blocks() -> None:
    family = family_of(tiny_config(attention_bias=True, mlp_bias=True))
    check_coverage(family)
    ending = {spec.kind for spec in family.tensors if spec.ends_block}
    assert ending == {"self_attn.o_proj", "self_attn.o_proj.bias", "mlp.down_proj", "mlp.down_proj.bias"}


def with_tensors(tensors: list[TensorSpec]) -> Family:
    family = family_of(tiny_config())
    family.__dict__["tensors"] = tensors
    return family


def test_a_table_that_lacks_or_adds_a_tensor_is_refused() -> None:
    whole = family_of(tiny_config()).tensors
    with pytest.raises(PlanError, match="model.embed_tokens.weight: table None"):
        check_coverage(with_tensors(whole[1:]))
    extra = TensorSpec(name="ghost", kind="ghost", axes=(writes("ffn"),))
    with pytest.raises(PlanError, match="ghost: table .48,., model None"):
        check_coverage(with_tensors([*whole, extra]))


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "ffn", "published"),
    [
        (4096, 32, 32, 11008, 6_738_415_616),
        (5120, 40, 40, 13824, 13_015_864_320),
        (6656, 60, 52, 17920, 32_528_943_616),
        (8192, 80, 64, 22016, 65_285_660_672),
    ],
)
def test_parameter_counts_equal_the_published_ones(
    hidden: int, layers: int, heads: int, ffn: int, published: int
) -> None:
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": ffn,
    }  # fmt: skip
    assert family_of(config).num_parameters == published


def test_an_unknown_family_is_refused_with_the_list() -> None:
    with pytest.raises(CheckpointError, match="no family is known for model_type 'mamba'(.|\n)*llama"):
        family_of({"model_type": "mamba"})


def test_a_config_without_a_size_is_refused() -> None:
    config = tiny_config()
    del config["hidden_size"]
    with pytest.raises(CheckpointError, match="lacks 'hidden_size'(.|\n)*Try"):
        family_of(config)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "32"])
def test_a_size_that_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(CheckpointError, match="hidden_size=.*which is no size"):
        family_of(tiny_config(hidden_size=size))


@pytest.mark.parametrize(
    ("config", "wanted", "words"),
    [
        ({}, dict(hidden_size=33), "33 is not a multiple of 4 query heads(.|\n)*target.hidden_size=36"),
        ({}, dict(head_dim=12), "grows by a whole factor(.|\n)*target.head_dim=16"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            dict(head_dim=16),
            "with rope_type 'yarn' the frequencies depend on the size of a head(.|\n)*target.head_dim=8",
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            dict(head_dim=16),
            "with rope_type 'dynamic'",
        ),
    ],
)
def test_targets_that_the_architecture_cannot_have_are_refused(
    config: dict[str, Any], wanted: dict[str, int], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        plan_growth(tiny_config(**config), wanted, operator())


def test_a_stretched_rope_does_not_keep_heads_of_one_size_from_growing_in_number() -> None:
    config = tiny_config(rope_scaling={"rope_type": "yarn", "factor": 2.0})
    assert plan_growth(config, dict(num_heads=8, num_kv_heads=4), operator()).exactness.exact
