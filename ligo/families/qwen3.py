"""Qwen3: Qwen2 with a norm on the queries and keys of each head, and biases on all four projections or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.families.base import FAMILIES
from ligo.families.qwen2 import Qwen2
from ligo.families.spec import Norm


@FAMILIES.register("qwen3")
class Qwen3(Qwen2):
    """As `Qwen3ForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen3",)
    reference: ClassVar[str] = "Qwen3 (Yang et al. 2025, arXiv 2505.09388)"
    head_norm: ClassVar[Norm | None] = Norm.RMS
    defaults: ClassVar[Mapping[str, Any]] = {
        **Qwen2.defaults,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }

    @property
    def attention_biases(self) -> str:
        return "qkvo" if self.setting("attention_bias") else ""
