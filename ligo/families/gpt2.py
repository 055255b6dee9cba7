"""GPT-2: LayerNorm before each block, learned positions, queries, keys and values in one matrix stored [in, out]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.families.base import FAMILIES
from ligo.families.layer_norm import LayerNormFamily
from ligo.families.spec import (
    FFN,
    HEADS,
    KEY_DIM,
    QUERY_DIM,
    RESIDUAL,
    VALUE_DIM,
    Axis,
    Space,
    TensorSpec,
    concat,
    product,
    reads,
    writes,
)


@FAMILIES.register("gpt2")
class GPT2(LayerNormFamily):
    """As `GPT2LMHeadModel` and `GPT2Model` store it."""

    model_types: ClassVar[tuple[str, ...]] = ("gpt2",)
    reference: ClassVar[str] = (
        "GPT-2: language models are unsupervised multitask learners (Radford et al. 2019)"
    )
    objectives: ClassVar[Mapping[str, str]] = {"LMHeadModel": "causal_lm", "GPT2Model": "none"}
    body: ClassVar[str] = "transformer"
    other_heads: ClassVar[tuple[str, ...]] = ("lm_head.",)
    size_keys: ClassVar[Mapping[str, str]] = {
        "num_layers": "n_layer",
        "hidden_size": "n_embd",
        "num_heads": "n_head",
        "ffn_size": "n_inner",
        "vocab_size": "vocab_size",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "tie_word_embeddings": True,
        "n_positions": 1024,
        "scale_attn_weights": True,
    }

    def setting(self, key: str, default: Any = None) -> Any:
        value = super().setting(key, default)
        return 4 * self._size("n_embd") if key == "n_inner" and value is None else value

    def check_variant(self) -> None:
        if self.setting("add_cross_attention"):
            raise self.refuse(
                "add_cross_attention", "there is no encoder to attend to", "a model that reads text alone"
            )
        if self.setting("scale_attn_by_inverse_layer_idx"):
            raise self.refuse(
                "scale_attn_by_inverse_layer_idx",
                "attention scores depend on the number of the layer, which growing changes",
                "a model without it",
            )

    def attention_spaces(self, **options: Any) -> list[Space]:
        return super().attention_spaces(
            score_scale=None if self.setting("scale_attn_weights") else 1.0, **options
        )

    def _tensors(self) -> list[TensorSpec]:
        tokens, last_norm = self.in_body("wte.weight"), self.in_body("ln_f")
        return [
            self.embedding_spec(tokens, tied_head="lm_head.weight"),
            self.table_spec(self.in_body("wpe.weight"), self.setting("n_positions")),
            *self.all_layers(self.in_body("h")),
            *self.norm_specs(last_norm, before_head=True),
            *(self.head_specs("lm_head", norm=last_norm, embedding=tokens) if self.has_head else []),
        ]

    def layer_specs(self, prefix: str, layer: int) -> list[TensorSpec]:
        queries_keys_values = concat(*(product(HEADS, dim) for dim in (QUERY_DIM, KEY_DIM, VALUE_DIM)))
        before_attention, before_ffn = f"{prefix}.ln_1", f"{prefix}.ln_2"

        def stored(name: str, out: Axis, in_: Axis, norm: str | None) -> list[TensorSpec]:
            return self.linear_specs(
                f"{prefix}.{name}", out, in_, layer=layer, norm=norm, ends_block=norm is None, in_first=True
            )

        return [
            *self.norm_specs(before_attention, layer),
            *stored("attn.c_attn", writes(queries_keys_values), reads(RESIDUAL), before_attention),
            *stored("attn.c_proj", writes(RESIDUAL), reads(HEADS, VALUE_DIM), None),
            *self.norm_specs(before_ffn, layer),
            *stored("mlp.c_fc", writes(FFN), reads(RESIDUAL), before_ffn),
            *stored("mlp.c_proj", writes(RESIDUAL), reads(FFN), None),
        ]
