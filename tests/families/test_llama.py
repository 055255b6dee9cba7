"""The LLaMA table against the stock model and the published sizes."""

from __future__ import annotations

import pytest

from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import family_of, parameter_count
from ligo.families.coverage import check_coverage
from ligo.families.llama import Llama
from ligo.families.spec import TensorSpec, writes
from tests.conftest import tiny_config


@pytest.mark.parametrize("tied", [True, False])
def test_table_matches_the_stock_model_both_ways(tied: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied)
    check_coverage(family_of(config))


def test_a_table_that_lacks_or_adds_a_tensor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config, whole = tiny_config(), Llama.tensors
    monkeypatch.setattr(Llama, "tensors", lambda self, dims: whole(self, dims)[1:])
    with pytest.raises(PlanError, match="model.embed_tokens.weight: table None"):
        check_coverage(Llama(config))
    extra = TensorSpec(name="ghost", kind="ghost", axes=(writes("ffn"),))
    monkeypatch.setattr(Llama, "tensors", lambda self, dims: [*whole(self, dims), extra])
    with pytest.raises(PlanError, match="ghost: table .48,., model None"):
        check_coverage(Llama(config))


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
    family = family_of(config)
    assert family.num_parameters == published


def test_an_unknown_family_is_refused_with_the_list() -> None:
    with pytest.raises(CheckpointError, match="no family is known for model_type 'mamba'(.|\n)*llama"):
        family_of({"model_type": "mamba"})


@pytest.mark.parametrize(
    ("change", "words"),
    [({"attention_bias": True}, "attention_bias=true"), ({"hidden_size": None}, "")],
)
def test_configs_that_are_not_described_are_refused(change: dict[str, object], words: str) -> None:
    config = tiny_config(**change)
    if not words:
        del config["hidden_size"]
        words = "lacks 'hidden_size'"
    with pytest.raises(CheckpointError, match=words):
        family_of(config).dims
