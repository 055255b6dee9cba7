"""OLMo 2: blocks read the stream as it is and are normed before they are added; queries and keys are normed too.

The norms after the blocks end them: where their gains are zero, the block adds nothing. Queries go through one norm
over all heads at once, and so do keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.families.base import FAMILIES
from ligo.families.llama import Llama
from ligo.families.spec import Norm, TensorSpec


@FAMILIES.register("olmo2")
class Olmo2(Llama):
    """As `Olmo2ForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("olmo2",)
    reference: ClassVar[str] = "2 OLMo 2 Furious (OLMo Team 2025, arXiv 2501.00656)"
    hidden_in_heads: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}
    head_norm: ClassVar[Norm | None] = Norm.RMS
    all_heads_norm: ClassVar[bool] = True

    @property
    def ffn_biases(self) -> bool:
        return False

    def layer(self, at: str, layer: int) -> list[TensorSpec]:
        return [
            *self.attention_specs(f"{at}.self_attn", layer, ends_block=False),
            self.norm_spec(f"{at}.post_attention_layernorm.weight", layer, ends_block=True),
            *self.ffn_specs(f"{at}.mlp", layer, ends_block=False),
            self.norm_spec(f"{at}.post_feedforward_layernorm.weight", layer, ends_block=True),
        ]
