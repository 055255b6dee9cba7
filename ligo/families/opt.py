"""OPT: LayerNorm before each block, learned positions, ReLU."""

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
    Dims,
    TensorSpec,
    reads,
    writes,
)

_POSITION_OFFSET = 2  # the table of positions starts with two rows that are never used


@FAMILIES.register("opt")
class OPT(LayerNormFamily):
    """As `OPTForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("opt",)
    reference: ClassVar[str] = "OPT (Zhang et al. 2022, arXiv 2205.01068)"
    size_keys: ClassVar[Mapping[str, str]] = {
        "num_layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "num_heads": "num_attention_heads",
        "ffn_size": "ffn_dim",
        "vocab_size": "vocab_size",
    }
    deviation_key: ClassVar[str] = "init_std"
    defaults: ClassVar[Mapping[str, Any]] = {
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
    }

    def check_variant(self) -> None:
        other = "another OPT model; of those published, only opt-350m is like this"
        if not self.setting("do_layer_norm_before"):
            raise self.refuse("do_layer_norm_before", "its norms stand after the blocks", other)
        if self.setting("word_embed_proj_dim") not in (None, self.setting("hidden_size")):
            raise self.refuse(
                "word_embed_proj_dim",
                "embeddings of another size than hidden_size are projected twice",
                other,
            )
        if self.setting("_remove_final_layer_norm"):
            raise self.refuse(
                "_remove_final_layer_norm", "the head reads the stream through a norm", "a model that has it"
            )
        if not self.setting("layer_norm_elementwise_affine"):
            raise self.refuse(
                "layer_norm_elementwise_affine", "every norm has a scale and a shift", "a model that has them"
            )

    def resized(self, dims: Dims) -> dict[str, Any]:
        return {**super().resized(dims), "word_embed_proj_dim": dims.hidden_size}

    def _tensors(self) -> list[TensorSpec]:
        body, tokens = "model.decoder", "model.decoder.embed_tokens.weight"
        positions = self.setting("max_position_embeddings") + _POSITION_OFFSET
        return [
            self.embedding_spec(tokens, tied_head="lm_head.weight"),
            self.table_spec(f"{body}.embed_positions.weight", positions),
            *self.norm_specs(f"{body}.final_layer_norm", before_head=True),
            *self.all_layers(f"{body}.layers"),
            *self.head_specs("lm_head", norm=f"{body}.final_layer_norm", embedding=tokens),
        ]

    def layer_specs(self, prefix: str, layer: int) -> list[TensorSpec]:
        before_attention, before_ffn = f"{prefix}.self_attn_layer_norm", f"{prefix}.final_layer_norm"

        def linear(name: str, out: Axis, in_: Axis, norm: str | None) -> list[TensorSpec]:
            return self.linear_specs(
                f"{prefix}.{name}",
                out,
                in_,
                layer=layer,
                norm=norm,
                bias=self.setting("enable_bias"),
                ends_block=norm is None,
            )

        return [
            *linear("self_attn.k_proj", writes(HEADS, KEY_DIM), reads(RESIDUAL), before_attention),
            *linear("self_attn.v_proj", writes(HEADS, VALUE_DIM), reads(RESIDUAL), before_attention),
            *linear("self_attn.q_proj", writes(HEADS, QUERY_DIM), reads(RESIDUAL), before_attention),
            *linear("self_attn.out_proj", writes(RESIDUAL), reads(HEADS, VALUE_DIM), None),
            *self.norm_specs(before_attention, layer),
            *linear("fc1", writes(FFN), reads(RESIDUAL), before_ffn),
            *linear("fc2", writes(RESIDUAL), reads(FFN), None),
            *self.norm_specs(before_ffn, layer),
        ]
