"""Mistral: LLaMA without biases, attending over a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.families.base import FAMILIES
from ligo.families.llama import Llama


@FAMILIES.register("mistral")
class Mistral(Llama):
    """As `MistralForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("mistral",)
    reference: ClassVar[str] = "Mistral 7B (Jiang et al. 2023, arXiv 2310.06825)"
    hidden_in_heads: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {
        **Llama.defaults,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    }

    def check_variant(self) -> None:
        for key in ("attention_bias", "mlp_bias"):
            if self.config.get(key):
                raise self.refuse(
                    key, f"transformers builds {self.name} without biases", "model_type llama, which has them"
                )
