"""Phi-3: LLaMA whose queries, keys and values are one matrix, as are gate and up, and whose heads may turn in part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.core.errors import PlanError
from ligo.families.base import FAMILIES
from ligo.families.llama import Llama
from ligo.families.spec import (
    FFN,
    HEADS,
    KEY_DIM,
    KV_HEADS,
    QUERY_DIM,
    RESIDUAL,
    VALUE_DIM,
    Dims,
    TensorSpec,
    concat,
    product,
    reads,
    writes,
)


@FAMILIES.register("phi3")
class Phi3(Llama):
    """As `Phi3ForCausalLM` stores it: Phi-3, Phi-3.5, Phi-4."""

    model_types: ClassVar[tuple[str, ...]] = ("phi3",)
    reference: ClassVar[str] = "Phi-3 (Abdin et al. 2024, arXiv 2404.14219)"
    hidden_in_heads: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}

    def check_variant(self) -> None:
        for key in ("attention_bias", "mlp_bias"):
            if self.config.get(key):
                raise self.refuse(
                    key, "transformers builds Phi-3 without biases", "model_type llama, which has them"
                )

    @property
    def turned_share(self) -> float:
        """Which part of a head's coordinates is turned."""
        rope = self.config.get("rope_parameters") or {}
        share = rope.get("partial_rotary_factor") or self.config.get("partial_rotary_factor")
        return 1.0 if share is None else float(share)

    @property
    def rotary(self) -> int:
        return int(self.dims.head_dim * self.turned_share)

    def resized(self, dims: Dims) -> dict[str, Any]:
        heads_of = dims.hidden_size // dims.num_heads
        if "longrope" in self.rope_types and heads_of != self.dims.hidden_size // self.dims.num_heads:
            raise PlanError(
                f"hidden_size {dims.hidden_size} over {dims.num_heads} heads is {heads_of}, and transformers wants one "
                f"long-rope factor for each two of these coordinates: the small model has them for "
                f"{self.dims.hidden_size // self.dims.num_heads}.\n"
                f"  Try: target.hidden_size={dims.num_heads * (self.dims.hidden_size // self.dims.num_heads)}"
            )
        return super().resized(dims)

    def attention_specs(
        self, at: str, layer: int, *, norm: str | None = None, ends_block: bool = True
    ) -> list[TensorSpec]:
        qkv = concat(product(HEADS, QUERY_DIM), product(KV_HEADS, KEY_DIM), product(KV_HEADS, VALUE_DIM))
        return [
            *self.linear_specs(f"{at}.qkv_proj", writes(qkv), reads(RESIDUAL), layer, norm=norm),
            *self.linear_specs(
                f"{at}.o_proj", writes(RESIDUAL), reads(HEADS, VALUE_DIM), layer, ends_block=ends_block
            ),
        ]

    def ffn_specs(
        self, at: str, layer: int, *, norm: str | None = None, ends_block: bool = True
    ) -> list[TensorSpec]:
        gate_up = writes(concat(FFN, FFN))
        return [
            *self.linear_specs(f"{at}.gate_up_proj", gate_up, reads(RESIDUAL), layer, norm=norm),
            *self.linear_specs(f"{at}.down_proj", writes(RESIDUAL), reads(FFN), layer, ends_block=ends_block),
        ]
