"""Shared fixtures: tiny random models in float64, and real inputs that may be absent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# the same examples each time: a change is judged by what it changes; LIGO_HYPOTHESIS=random looks for new ones
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("random", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("LIGO_HYPOTHESIS", "same"))

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ["DS_ACCELERATOR"] = "cpu"

REPO = Path(__file__).resolve().parent.parent
SHARED_DATA = REPO.parent / "shared" / "data"


def tiny_config(**changes: Any) -> dict[str, Any]:
    """config.json of a LLaMA small enough for a test."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        **changes,
    }


def random_model(config: Mapping[str, Any], dtype: str = "float64", seed: int = 0) -> Any:
    """A stock LLaMA with lively weights: logits of about 3, gains away from one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).to(getattr(torch, dtype))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(
                    torch.randn_like(parameter) * (0.2 if "embed" in name or "lm_head" in name else 0.15)
                )
    return model.eval()


@pytest.fixture(scope="session")
def stories260k() -> Path:
    folder = SHARED_DATA / "stories260k-llama"
    if not folder.is_dir():
        pytest.skip("the stories260k checkpoint is not beside this checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def tinystories() -> Path:
    folder = SHARED_DATA / "tinystories-sample"
    if not folder.is_dir():
        pytest.skip("the TinyStories sample is not beside this checkout (../shared/data)")
    return folder
