"""Gemma 2: norms before and after each block, gains stored less one, the embedding multiplied by sqrt(hidden_size).

The norms after the blocks end them: where their gains are zero, the block adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.families.base import FAMILIES
from ligo.families.llama import Llama
from ligo.families.spec import TensorSpec


@FAMILIES.register("gemma2")
class Gemma2(Llama):
    """As `Gemma2ForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma2",)
    reference: ClassVar[str] = "Gemma 2 (Gemma Team 2024, arXiv 2408.00118)"
    norm_offset: ClassVar[float] = 1.0
    defaults: ClassVar[Mapping[str, Any]] = {
        "head_dim": 256,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
    }

    def check_variant(self) -> None:
        if self.config.get("use_bidirectional_attention"):
            raise self.refuse(
                "use_bidirectional_attention",
                "it is trained to predict the next token",
                "a causal checkpoint",
            )

    def implied_layer_types(self) -> list[str]:
        return alternating(self.dims.num_layers, 2)

    @property
    def ffn_biases(self) -> bool:
        return False

    @property
    def score_scale(self) -> float:
        return float(self.setting("query_pre_attn_scalar") ** -0.5)

    def embedding_spec(self, multiplier: float = 1.0) -> TensorSpec:
        return super().embedding_spec(multiplier=self.dims.hidden_size**0.5)

    def layer(self, at: str, layer: int) -> list[TensorSpec]:
        before_attention, before_ffn = (
            f"{at}.input_layernorm.weight",
            f"{at}.pre_feedforward_layernorm.weight",
        )
        return [
            self.norm_spec(before_attention, layer),
            *self.attention_specs(f"{at}.self_attn", layer, norm=before_attention, ends_block=False),
            self.norm_spec(f"{at}.post_attention_layernorm.weight", layer, ends_block=True),
            self.norm_spec(before_ffn, layer),
            *self.ffn_specs(f"{at}.mlp", layer, norm=before_ffn, ends_block=False),
            self.norm_spec(f"{at}.post_feedforward_layernorm.weight", layer, ends_block=True),
        ]


def alternating(num_layers: int, period: int) -> list[str]:
    """`layer_types` where every `period`-th layer attends to all tokens, and the others over a sliding window."""
    return ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(num_layers)]
