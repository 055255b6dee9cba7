"""Qwen2: LLaMA with biases on queries, keys and values, and a sliding window in its upper layers where wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.families.base import FAMILIES
from ligo.families.llama import Llama


@FAMILIES.register("qwen2")
class Qwen2(Llama):
    """As `Qwen2ForCausalLM` stores it: Qwen1.5, Qwen2, Qwen2.5."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2",)
    reference: ClassVar[str] = "Qwen2 (Yang et al. 2024, arXiv 2407.10671)"
    hidden_in_heads: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_window_layers": 28,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
    }

    @property
    def attention_biases(self) -> str:
        return "qkv"

    @property
    def ffn_biases(self) -> bool:
        return False

    @property
    def window(self) -> int | None:
        """Tokens that a layer with a sliding window sees; None where no layer has one."""
        window = self.config.get("sliding_window", self.defaults["sliding_window"])
        return window if self.config.get("use_sliding_window") else None

    def implied_layer_types(self) -> list[str]:
        layers = range(self.dims.num_layers)
        first = len(layers) if self.window is None else self.setting("max_window_layers")
        return ["sliding_attention" if layer >= first else "full_attention" for layer in layers]
