"""Fresh models: config.json that stock transformers builds as the family describes it, under one set of names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ligo.core.errors import ConfigError
from ligo.families.base import family_of
from ligo.families.fresh import fresh_config
from ligo.families.positions import num_positions
from ligo.families.stock import check_coverage, fresh_model

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGES = {"num_channels": 1, "image_size": 8, "patch_size": 2, "num_labels": 7}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("llama", {"num_key_value_heads": 2, "vocab_size": 300}),
        ("gpt2", {"max_position_embeddings": 48}),
        ("gpt_neox", {}),
        ("bert", {"vocab_size": 300}),
        ("roberta", {"max_position_embeddings": 48}),
        ("vit", IMAGES),
    ],
)
def test_stock_transformers_builds_what_was_asked_for(name: str, own: dict[str, int]) -> None:
    family = family_of(fresh_config(name, {**SIZES, **own}))
    check_coverage(family)
    assert (family.dims.hidden_size, family.dims.num_layers, family.dims.num_heads) == (32, 2, 4)
    assert family.dims.ffn_size == 48
    assert family.dims.num_kv_heads == own.get("num_key_value_heads", 4)
    model = fresh_model(family)
    assert type(model).__name__ == family.config["architectures"][0]
    assert {p for module in model.modules() if (p := getattr(module, "p", 0.0))} == set()  # no dropout
    if name == "gpt2":
        assert model.config.n_positions == 48
    if "max_position_embeddings" in own:
        assert num_positions(family.config) == num_positions(model.config.to_dict()) == 48
    if name == "vit":
        assert model.config.num_labels == 7
    else:
        assert model.config.vocab_size == own.get("vocab_size", 2048)
    if name == "roberta":  # as many tokens as were asked for, at positions from behind the padding's
        model(torch.arange(1, 49)[None])
        with pytest.raises((IndexError, RuntimeError), match="out of"):
            model(torch.arange(1, 50)[None])
    elif name != "vit":
        assert model.get_input_embeddings().padding_idx is None  # id 0 ends a text and must be learned


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gtp2", {}, "Known: llama, gpt2, gpt_neox, bert, roberta, vit(.|\n)*Try: small.family=gpt2"),
        ("gpt2", {"hidden_size": 30}, "30 must divide into 4 heads.\n  Try: small.shape.hidden_size=32"),
        ("gpt_neox", {"hidden_size": 16}, "4 heads, 8 coordinates at a time(.|\n)*hidden_size=32"),
        ("llama", {"num_key_value_heads": 3}, "into 3 key/value heads(.|\n)*num_key_value_heads=4"),
        ("gpt2", {"num_key_value_heads": 2}, "no size 'num_key_value_heads' for gpt2 models"),
        ("vit", {"vocab_size": 300}, "no size 'vocab_size' for vit models"),
        ("bert", {"vocab_size": 100}, "vocab_size=100 must be at least 257"),
        ("bert", {"num_hidden_layers": 0}, "num_hidden_layers=0 must be at least 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(name: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fresh_config(name, {**SIZES, **change})


def test_missing_sizes_are_named() -> None:
    with pytest.raises(ConfigError, match="lacks num_attention_heads, intermediate_size"):
        fresh_config("bert", {"hidden_size": 8, "num_hidden_layers": 1})
