"""What changes how a step is computed changes no loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ligo.families.base import family_of
from ligo.training.compute import set_up
from ligo.training.models import fresh_model
from tests.conftest import tiny_config
from tests.families.tiny import TINY
from tests.families.tiny_others import OTHERS
from tests.training.arms import CONFIG, records, run_arm

ATTENTION = 1e-5  # float32 rounding of another order of summation, over eight steps, of losses of 4.6
GPT2 = {**OTHERS["gpt2"], "resid_pdrop": 0.2, "attn_pdrop": 0.0}


@pytest.mark.parametrize(
    ("config", "changes"),
    [(tiny_config(num_hidden_layers=3), {"layer_drop": 0.8, "token_drop": 0.5}), (GPT2, {})],
    ids=["llama that drops", "gpt2 with dropout"],
)
def test_recomputed_activations_give_the_same_losses_bit_for_bit(
    config: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    training = replace(CONFIG, **changes)
    run_arm(tmp_path / "none", training, model_config=config)
    run_arm(tmp_path / "full", replace(training, activation_checkpointing="full"), model_config=config)
    assert records(tmp_path / "full") == records(tmp_path / "none")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "vit"])
def test_recomputation_keeps_fewer_activations(name: str) -> None:
    kept = {}
    for how in ("none", "full"):
        config = {**TINY, **OTHERS}[name]
        model = fresh_model(config, seed=0).train()
        set_up(model, replace(CONFIG, activation_checkpointing=how), family_of(config))
        bytes_ = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_
            bytes_ += tensor.nbytes
            return tensor

        inputs = (
            {"pixel_values": torch.zeros(4, 3, 8, 8)}
            if name == "vit"
            else {"input_ids": torch.zeros(4, 16, dtype=torch.int64)}
        )
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**inputs)
        kept[how] = bytes_
    assert kept["full"] < 0.7 * kept["none"]


def test_sdpa_and_eager_attention_give_the_same_losses(tmp_path: Path) -> None:
    run_arm(tmp_path / "sdpa")
    run_arm(tmp_path / "eager", replace(CONFIG, attention="eager"))
    pairs = zip(records(tmp_path / "sdpa"), records(tmp_path / "eager"), strict=True)
    for one, other in pairs:
        assert one == pytest.approx(other, abs=ATTENTION)
    model = fresh_model(tiny_config(), seed=0)
    assert model.config._attn_implementation == "sdpa"
    set_up(model, replace(CONFIG, attention="eager"), family_of(tiny_config()))
    assert model.config._attn_implementation == "eager"
