"""Checkpoints under older names, or with more in them, grow to what those of today grow to; strays are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ligo.checkpoint.reader import WEIGHTS_FILE, Checkpoint
from ligo.core.errors import CheckpointError
from ligo.core.files import write_json
from ligo.families.base import Family, family_of
from ligo.families.names import disk_names
from ligo.families.stock import expected_shapes, model_class
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import plan_growth
from ligo.growth.verify import load_stock
from ligo.operators.noise_level import NoiseLevel
from tests.families.tiny import RMS_DECODERS
from tests.families.tiny_others import OTHERS
from tests.growing import lively_model, on_disk_weights, operator

FAMILIES = {**RMS_DECODERS, **OTHERS}
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Old:
    """How a checkpoint of a tiny family is made older, and what is then left out, as it is said."""

    family: str
    rename: Callable[[str], str] = str
    more: Callable[[Weights], Weights] = lambda weights: {}
    said: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Names of today that are no longer there."""


def old_norms(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def zeros(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: torch.zeros(2, 3) for name in names}


def copies(**copied: str) -> Callable[[Weights], Weights]:
    """`copied`: name of the copy, with two underscores for each dot -> name of the tensor."""
    return lambda weights: {new.replace("__", "."): weights[name].clone() for new, name in copied.items()}


OLD: dict[str, Old] = {
    "gpt2 on the hub": Old(
        "gpt2",
        lambda name: name.removeprefix("transformer."),
        zeros("h.0.attn.bias", "h.1.attn.bias"),
        ("h.0.attn.bias and 1 more (computed by the model itself)",),
    ),
    "bert on the hub": Old(
        "bert",
        old_norms,
        zeros("bert.pooler.dense.weight", "cls.seq_relationship.weight", "bert.embeddings.position_ids"),
        (
            "bert.pooler.dense.weight and 1 more (of another head than the model's)",
            "bert.embeddings.position_ids (computed by the model itself)",
        ),
    ),
    "bert with its tied decoder": Old(
        "bert",
        more=copies(
            cls__predictions__decoder__weight="bert.embeddings.word_embeddings.weight",
            cls__predictions__decoder__bias="cls.predictions.bias",
        ),
        said=(
            "cls.predictions.decoder.weight (tied to bert.embeddings.word_embeddings.weight)",
            "cls.predictions.decoder.bias (tied to cls.predictions.bias)",
        ),
    ),
    "roberta on the hub": Old(
        "roberta",
        more=lambda weights: (
            copies(
                lm_head__decoder__weight="roberta.embeddings.word_embeddings.weight",
                lm_head__decoder__bias="lm_head.bias",
            )(weights)
            | zeros("roberta.pooler.dense.weight")(weights)
        ),
        said=(
            "lm_head.decoder.weight (tied to roberta.embeddings.word_embeddings.weight)",
            "lm_head.decoder.bias (tied to lm_head.bias)",
            "roberta.pooler.dense.weight (of another head than the model's)",
        ),
    ),
    "a body with the names of a whole model": Old(
        "bert model",
        lambda name: f"bert.{name}",
        zeros("cls.predictions.transform.dense.weight"),
        ("cls.predictions.transform.dense.weight (of another head than the model's)",),
    ),
    "minilm": Old(
        "bert model",
        more=zeros("embeddings.position_ids"),
        said=("embeddings.position_ids (computed by the model itself)",),
    ),
    "vit with the head that it was trained with": Old(
        "vit model",
        lambda name: name if name.startswith("pooler") else f"vit.{name}",
        zeros("classifier.weight"),
        ("classifier.weight (of another head than the model's)",),
    ),
    "llama with its tied head": Old(
        "llama tied",
        more=copies(lm_head__weight="model.embed_tokens.weight"),
        said=("lm_head.weight (tied to model.embed_tokens.weight)",),
    ),
    "llama without its prefix": Old("llama tied", lambda name: name.removeprefix("model.")),
    "opt without its prefix": Old("opt", lambda name: name.removeprefix("model.")),
    "a tied head in the embedding's place": Old(
        "gpt2",
        more=copies(lm_head__weight="transformer.wte.weight"),
        without=("transformer.wte.weight",),
    ),
    "gpt_neox with its masks": Old(
        "gpt_neox",
        more=zeros("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
        said=("gpt_neox.layers.0.attention.bias and 1 more (computed by the model itself)",),
    ),
}


def save(folder: Path, config: dict[str, Any], weights: Weights) -> Checkpoint:
    write_json(folder / "config.json", config)
    save_file(weights, folder / WEIGHTS_FILE)
    return Checkpoint.open(folder)


def tiny(family: str) -> tuple[dict[str, Any], Family, Weights]:
    config = FAMILIES[family]
    model = family_of(config)
    return config, model, on_disk_weights(lively_model(model, "float32"))


@pytest.mark.parametrize("old", OLD.values(), ids=list(OLD))
def test_it_grows_to_the_same_weights(old: Old, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, family, weights = tiny(old.family)
    kept = {old.rename(name): tensor for name, tensor in weights.items() if name not in old.without}
    opened = save(tmp_path, config, kept | old.more(weights))
    assert set(opened.shapes) != set(weights)

    checkpoint = opened.named_for(family)
    assert {name: checkpoint.shapes[name] for name in weights} == checkpoint.shapes
    assert set(checkpoint.dtypes) == set(weights)
    checkpoint.expect(expected_shapes(family))
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == sorted(f"left out of {tmp_path.name}: {it}" for it in old.said)

    plan = plan_growth(config, {"ffn_size": 96}, operator())
    grown, expected = (
        dict(grow_tensors(plan, plan.maps, read, dtype=torch.float32, noise=NoiseLevel(), seed=0))
        for read in (checkpoint.read, weights.__getitem__)
    )
    assert all(torch.equal(grown[name], expected[name]) for name in expected)


@pytest.mark.parametrize("old", OLD.values(), ids=list(OLD))
def test_transformers_reads_the_same_in_it(old: Old, tmp_path: Path) -> None:
    config, _, weights = tiny(old.family)
    kept = {old.rename(name): tensor for name, tensor in weights.items() if name not in old.without}
    more = {name: tensor for name, tensor in old.more(weights).items() if not name.endswith("position_ids")}
    save(tmp_path, config, kept | more)
    loaded = on_disk_weights(load_stock(tmp_path, with_more=True))
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_today_stay_as_they_are(family: str) -> None:
    model = family_of(FAMILIES[family])
    found = disk_names(model.by_name, model)
    assert found.on_disk == {name: name for name in model.by_name}
    assert not found.left_out and not found.copies
    assert model.body == model_class(model).base_model_prefix


@pytest.mark.parametrize(
    "stray", ["ghost.weight", "transformer.ghost", "transformer.h.0.attn.q_norm.weight", "score.weight"]
)
def test_a_tensor_that_no_rule_explains_is_still_refused(stray: str, tmp_path: Path) -> None:
    config, family, weights = tiny("gpt2")
    checkpoint = save(tmp_path, config, weights | {stray: torch.zeros(2)}).named_for(family)
    assert stray in checkpoint.shapes
    with pytest.raises(CheckpointError, match=f"not expected: {stray}\n  Try: load it with GPT2LMHeadModel"):
        checkpoint.expect(expected_shapes(family))


def test_a_missing_tensor_is_still_refused(tmp_path: Path) -> None:
    config, family, weights = tiny("gpt2")
    kept = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    del kept["ln_f.bias"]
    with pytest.raises(CheckpointError, match="missing: transformer.ln_f.bias\n"):
        save(tmp_path, config, kept).named_for(family).expect(expected_shapes(family))


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    config, family, weights = tiny("gpt2")
    twice = weights | {"wte.weight": weights["transformer.wte.weight"] + 1}
    with pytest.raises(CheckpointError, match="there twice, as 'transformer.wte.weight' and as 'wte.weight'"):
        save(tmp_path, config, twice).named_for(family)


def test_a_tied_tensor_that_differs_is_refused(tmp_path: Path) -> None:
    config, family, weights = tiny("llama tied")
    untied = weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1}
    checkpoint = save(tmp_path, config, untied).named_for(family)
    with pytest.raises(CheckpointError, match='they differ.\n  Try: "tie_word_embeddings": false'):
        checkpoint.expect(expected_shapes(family))
