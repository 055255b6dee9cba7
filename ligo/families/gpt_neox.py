"""GPT-NeoX and Pythia: LayerNorm, rotary positions on part of each head, queries, keys and values head by head.

Attention and FFN may read the same stream (parallel residual) or one after the other: the tensors are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import FAMILIES
from ligo.families.layer_norm import LayerNormFamily
from ligo.families.spec import (
    FFN,
    HEADS,
    KEY_DIM,
    QUERY_DIM,
    RESIDUAL,
    VALUE_DIM,
    Dims,
    Space,
    TensorSpec,
    concat,
    reads,
    writes,
)


@FAMILIES.register("gpt_neox")
class GPTNeoX(LayerNormFamily):
    """As `GPTNeoXForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("gpt_neox",)
    reference: ClassVar[str] = "GPT-NeoX-20B (Black et al. 2022, arXiv 2204.06745)"
    body: ClassVar[str] = "gpt_neox"
    defaults: ClassVar[Mapping[str, Any]] = {"attention_bias": True}

    def check_variant(self) -> None:
        head_dim = self._size("hidden_size") // self._size("num_attention_heads")
        if self.setting("head_dim") not in (None, head_dim):
            raise self.refuse("head_dim", "the size of a head is hidden_size / heads", "a model without it")
        if self._rotary(head_dim) % 2:
            raise CheckpointError(
                f"of heads of {head_dim} coordinates, {self._rotary_factor} are {self._rotary(head_dim)} with rotary "
                "positions, and they turn in pairs.\n  Try: a model with an even number of them"
            )

    @property
    def _rope(self) -> dict[str, Any]:
        return dict(self.config.get("rope_scaling") or self.config.get("rope_parameters") or {})

    @property
    def _rotary_factor(self) -> float:
        """Part of each head that is turned: in `rope_parameters` of transformers 5, `rotary_pct` in older files."""
        factor = self._rope.get("partial_rotary_factor", self.config.get("rotary_pct"))
        return 0.25 if factor is None else float(factor)

    def _rotary(self, head_dim: int) -> int:
        return int(head_dim * self._rotary_factor)

    def resized(self, dims: Dims) -> dict[str, Any]:
        if dims.head_dim != self.dims.head_dim:
            self._check_head_dim(dims)
        return super().resized(dims)

    def _check_head_dim(self, dims: Dims) -> None:
        small, target = self.dims.head_dim, dims.head_dim
        kind = self._rope.get("rope_type") or self._rope.get("type") or "default"
        why = None
        if kind != "default":
            why = f"with rope_type {kind!r} the frequencies depend on the size of a head"
        elif target % small or self._rotary(target) * small != self._rotary(small) * target:
            why = (
                f"rotary frequencies of the two ({self._rotary(small)} and {self._rotary(target)} turned coordinates) "
                "coincide only where both grow by the same whole factor"
            )
        if why is not None:
            raise PlanError(
                f"heads of {small} coordinates cannot become heads of {target}: {why}.\n"
                f"  Try: target.hidden_size={small * dims.num_heads}, which keeps heads of {small}"
            )

    def attention_spaces(self, **options: Any) -> list[Space]:
        return super().attention_spaces(rotary=self._rotary(self.dims.head_dim), **options)

    def _tensors(self) -> list[TensorSpec]:
        tokens = self.in_body("embed_in.weight")
        return [
            self.embedding_spec(tokens, tied_head="lm_head.weight"),
            *self.all_layers(self.in_body("layers")),
            *self.norm_specs(self.in_body("final_layer_norm"), before_head=True),
            *self.head_specs("embed_out", norm=self.in_body("final_layer_norm"), embedding=tokens),
        ]

    def layer_specs(self, prefix: str, layer: int) -> list[TensorSpec]:
        before_attention, before_ffn = f"{prefix}.input_layernorm", f"{prefix}.post_attention_layernorm"
        each_head, biased = concat(QUERY_DIM, KEY_DIM, VALUE_DIM), self.setting("attention_bias")
        return [
            *self.norm_specs(before_attention, layer),
            *self.norm_specs(before_ffn, layer),
            *self.linear_specs(
                f"{prefix}.attention.query_key_value",
                writes(HEADS, each_head),
                reads(RESIDUAL),
                layer=layer,
                norm=before_attention,
                bias=biased,
            ),
            *self.linear_specs(
                f"{prefix}.attention.dense",
                writes(RESIDUAL),
                reads(HEADS, VALUE_DIM),
                layer=layer,
                bias=biased,
                ends_block=True,
            ),
            *self.linear_specs(
                f"{prefix}.mlp.dense_h_to_4h", writes(FFN), reads(RESIDUAL), layer=layer, norm=before_ffn
            ),
            *self.linear_specs(
                f"{prefix}.mlp.dense_4h_to_h", writes(RESIDUAL), reads(FFN), layer=layer, ends_block=True
            ),
        ]
