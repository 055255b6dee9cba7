"""Adapters have as many parameters as was published, change nothing at first, and are refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ligo.checkpoint.hashes import SUMS_FILE
from ligo.core.errors import CheckpointError, ConfigError
from ligo.families.base import Family, family_of
from ligo.tuning.adapters import add_adapter, check_adapter, peft_config
from ligo.tuning.config import TuningConfig
from tests.conftest import random_model, tiny_config
from tests.tuning.tuned import SHAPE, checkpoint, instructions, run

LLAMA_7B = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "intermediate_size": 11008,
}
LLAMA_13B = {
    "hidden_size": 5120,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "intermediate_size": 13824,
}
FAMILY = family_of(SHAPE)


def tuning(method: str, **peft: Any) -> TuningConfig:
    return TuningConfig(method=method, peft={"target_modules": "all-linear", **peft})


def num_trained(model: nn.Module, config: TuningConfig) -> int:
    adapted = add_adapter(model, peft_config(config), on_meta=True)
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("sizes", "method", "rank", "published"),
    [
        (LLAMA_7B, "lora", 64, 159_907_840),
        (LLAMA_7B, "vera", 256, 1_417_216),
        (LLAMA_7B, "vera", 1024, 1_589_248),
        (LLAMA_13B, "lora", 64, 250_347_520),
        (LLAMA_13B, "vera", 256, 2_201_600),
        (LLAMA_13B, "vera", 1024, 2_416_640),
    ],
)
def test_as_many_parameters_as_vera_publishes_for_llama(
    sizes: dict[str, int], method: str, rank: int, published: int
) -> None:
    """Kopiczko et al. 2023 (arXiv 2310.11454): 159.9M, 1.4M (first version), 1.6M; 250.3M, 2.4M."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    assert num_trained(model, tuning(method, r=rank)) == published


def test_as_many_parameters_as_vera_publishes_for_roberta_base() -> None:
    """The same: 0.043M, on the projections of queries and values."""
    from transformers import RobertaConfig, RobertaModel

    with torch.device("meta"):
        model = RobertaModel(RobertaConfig())
    config = tuning("vera", r=1024, target_modules=["query", "value"], task_type=None)
    assert num_trained(model, config) == 43_008


@pytest.mark.parametrize("method", ["lora", "vera"])
def test_a_fresh_adapter_changes_no_logit(method: str) -> None:
    model = random_model(tiny_config())
    ids = torch.randint(0, 96, (2, 16))
    before = model(ids).logits
    after = add_adapter(model, peft_config(tuning(method))).eval()(ids).logits
    assert (after - before).abs().max() == 0


def refused(config: TuningConfig, family: Family = FAMILY, fingerprint: str = "") -> None:
    check_adapter(family, config, fingerprint)


def test_target_modules_that_match_nothing_are_refused_with_the_names_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"There are: down_proj, gate_proj, k_proj, lm_head, o_proj"):
        refused(tuning("lora", target_modules=["c_attn"]))
    with pytest.raises(ConfigError, match="nothing is named c_attn"):
        refused(tuning("lora", target_modules=["q_proj", "c_attn"]))


def test_keys_and_values_that_peft_does_not_know_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no key 'rank'(.|\n)*Try: tuning.peft."):
        refused(tuning("lora", rank=8))
    with pytest.raises(ConfigError, match="does not take"):
        refused(tuning("lora", layers_pattern="h"))


def test_an_adapter_beside_another_checkpoint_is_refused(tmp_path: Path) -> None:
    base, other = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "other", seed=1)
    wider = checkpoint(tmp_path / "wider", intermediate_size=192)
    data = instructions(tmp_path / "words.json")
    adapter = run(tmp_path / "run", base, data, "tuning=lora", "tuning.peft.r=2", "train.steps=1") / "adapter"
    go_on = ("tuning=lora", f"tuning.adapter={adapter}")
    with pytest.raises(CheckpointError, match="tuned beside another checkpoint"):
        run(tmp_path / "a", other, data, *go_on)
    with pytest.raises(CheckpointError, match="of the kind LORA, and tuning.method=vera"):
        run(tmp_path / "b", base, data, "tuning=vera", f"tuning.adapter={adapter}")
    for ours in ("ligo.json", SUMS_FILE):  # without which others' adapters come
        (adapter / ours).unlink()
    with pytest.raises(
        CheckpointError,
        match=r"does not fit this model: it has .* as \(2, 128\), and the model needs \(2, 192\)",
    ):
        run(tmp_path / "c", wider, data, *go_on)
    shutil.rmtree(adapter)
    with pytest.raises(CheckpointError, match="is no PEFT folder: it has no adapter_config.json"):
        run(tmp_path / "d", base, data, *go_on)
    assert not any((tmp_path / name).exists() for name in "abcd")


def test_peft_keys_pass_through_to_the_folder(tmp_path: Path) -> None:
    base, data = checkpoint(tmp_path / "base"), instructions(tmp_path / "words.json")
    folder = run(
        tmp_path / "run", base, data, "tuning=lora", "train.steps=1",
        "tuning.peft={r: 2, use_rslora: true, target_modules: [q_proj]}",
    )  # fmt: skip
    found = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (found["r"], found["use_rslora"], found["target_modules"]) == (2, True, ["q_proj"])
