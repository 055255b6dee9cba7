"""LLaMA: RMSNorm, rotary positions, gated FFN, grouped key/value heads, tied or untied head.

Mistral and SmolLM checkpoints have the same tensors. The families that differ from it in a detail
(Qwen2, Qwen3, OLMo2, Gemma, Mixtral) inherit from it and say what differs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ligo.core.errors import CheckpointError
from ligo.families.base import FAMILIES, Family
from ligo.families.spec import (
    FFN,
    HEADS,
    KEY_DIM,
    KV_HEADS,
    QUERY_DIM,
    RESIDUAL,
    VALUE_DIM,
    VOCAB,
    Axis,
    Dims,
    Norm,
    Space,
    TensorSpec,
    gain,
    reads,
    writes,
)

# rope types whose frequencies do not depend on the size of a head
_PLAIN_ROPE = ("default", "linear", "llama3")


@FAMILIES.register("llama")
class Llama(Family):
    """As `LlamaForCausalLM` and `MistralForCausalLM` store it."""

    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    reference: ClassVar[str] = "LLaMA (Touvron et al. 2023, arXiv 2302.13971)"
    norm: ClassVar[Norm] = Norm.RMS
    kv_heads_key: ClassVar[str | None] = "num_key_value_heads"
    head_dim_key: ClassVar[str | None] = "head_dim"
    moe_model_type: ClassVar[str | None] = "mixtral"

    embedding: ClassVar[str] = "model.embed_tokens.weight"
    final_norm: ClassVar[str] = "model.norm.weight"
    norm_offset: ClassVar[float] = 0.0
    attention_biases: ClassVar[tuple[str, ...]] = ()
    """Which of q, k, v, o have biases, whatever config.json says."""

    def check_variant(self) -> None:
        if self.config.get("model_type") == "mistral" and self.config.get("num_key_value_heads") is None:
            raise CheckpointError(
                "config.json lacks 'num_key_value_heads', and transformers would take 8 for Mistral.\n"
                "  Try: save the model again with save_pretrained"
            )

    @property
    def rope(self) -> dict[str, Any]:
        """How positions are turned: `rope_parameters` of transformers 5, or `rope_scaling` of older ones."""
        return dict(self.config.get("rope_parameters") or self.config.get("rope_scaling") or {})

    def resized(self, dims: Dims) -> dict[str, Any]:
        kind = self.rope.get("rope_type") or self.rope.get("type") or "default"
        if dims.head_dim != self.dims.head_dim and kind not in _PLAIN_ROPE:
            raise self.refuse_head_dim(dims, f"with rope_type {kind!r} the frequencies depend on the size of a head")
        return super().resized(dims)

    def refuse_head_dim(self, dims: Dims, why: str) -> Exception:
        from ligo.core.errors import PlanError

        return PlanError(
            f"heads of {self.dims.head_dim} coordinates cannot become heads of {dims.head_dim}: {why}.\n"
            f"  Try: target.head_dim={self.dims.head_dim} and more heads"
        )

    def _spaces(self) -> list[Space]:
        d = self.dims
        return [
            Space(name=RESIDUAL, size=d.hidden_size, norm=self.norm),
            *self.attention_spaces(rotary=d.head_dim),
            Space(name=FFN, size=d.ffn_size),
            Space(name=VOCAB, size=d.vocab_size),
        ]

    def _tensors(self) -> list[TensorSpec]:
        return [
            self.embedding_spec(),
            *(spec for layer in range(self.dims.num_layers) for spec in self.layer(f"model.layers.{layer}.", layer)),
            TensorSpec(
                name=self.final_norm, kind="norm", axes=(gain(RESIDUAL),), before_head=True, offset=self.norm_offset
            ),
            *self.head_specs(),
        ]

    def embedding_spec(self, multiplier: float = 1.0) -> TensorSpec:
        return TensorSpec(
            name=self.embedding,
            kind="embed_tokens",
            axes=(writes(VOCAB), writes(RESIDUAL)),
            lookup=True,
            aliases=("lm_head.weight",) if self.dims.tied else (),
            multiplier=multiplier,
        )

    def head_specs(self) -> list[TensorSpec]:
        if self.dims.tied:
            return []
        return [
            TensorSpec(
                name="lm_head.weight",
                kind="lm_head",
                axes=(writes(VOCAB), reads(RESIDUAL)),
                gain=self.final_norm,
                else_from=self.embedding,
            )
        ]

    def layer(self, prefix: str, layer: int) -> list[TensorSpec]:
        """The tensors of one layer, in file order."""
        before_attention, before_ffn = f"{prefix}input_layernorm.weight", f"{prefix}post_attention_layernorm.weight"
        return [
            self.norm_spec(before_attention, prefix, layer),
            *self.attention(prefix, layer, before_attention),
            self.norm_spec(before_ffn, prefix, layer),
            *self.feed_forward(prefix, layer, before_ffn),
        ]

    def attention(self, prefix: str, layer: int, norm: str | None, ends_block: bool = True) -> list[TensorSpec]:
        """q, k, v, o, with the biases that there are."""
        outputs = {
            "q": writes(HEADS, QUERY_DIM),
            "k": writes(KV_HEADS, KEY_DIM),
            "v": writes(KV_HEADS, VALUE_DIM),
            "o": writes(RESIDUAL),
        }
        specs = []
        for letter, out in outputs.items():
            name = f"{prefix}self_attn.{letter}_proj"
            last = letter == "o"
            in_ = reads(HEADS, VALUE_DIM) if last else reads(RESIDUAL)
            zeroed = last and ends_block
            specs.append(self.matrix(f"{name}.weight", prefix, layer, out, in_, None if last else norm, zeroed))
            if letter in self.attention_biases or self.config.get("attention_bias"):
                specs.append(self.bias(f"{name}.bias", prefix, layer, out, zeroed))
        return specs

    def feed_forward(
        self, prefix: str, layer: int, norm: str | None, ends_block: bool = True, block: str = "mlp"
    ) -> list[TensorSpec]:
        """gate, up, down, with biases where config.json says so."""
        specs = []
        for part in ("gate", "up", "down"):
            name, last = f"{prefix}{block}.{part}_proj", part == "down"
            out, in_ = (writes(RESIDUAL), reads(FFN)) if last else (writes(FFN), reads(RESIDUAL))
            zeroed = last and ends_block
            specs.append(self.matrix(f"{name}.weight", prefix, layer, out, in_, None if last else norm, zeroed))
            if self.config.get("mlp_bias"):
                specs.append(self.bias(f"{name}.bias", prefix, layer, out, zeroed))
        return specs

    def norm_spec(
        self, name: str, prefix: str, layer: int, axis: Axis | None = None, ends_block: bool = False
    ) -> TensorSpec:
        return TensorSpec(
            name=name,
            kind=name.removeprefix(prefix).removesuffix(".weight"),
            layer=layer,
            axes=(axis or gain(RESIDUAL),),
            offset=self.norm_offset,
            ends_block=ends_block,
        )

    def matrix(
        self, name: str, prefix: str, layer: int, out: Axis, in_: Axis, norm: str | None, ends_block: bool
    ) -> TensorSpec:
        return TensorSpec(
            name=name,
            kind=name.removeprefix(prefix).removesuffix(".weight"),
            layer=layer,
            axes=(out, in_),
            gain=norm,
            ends_block=ends_block,
        )

    def bias(self, name: str, prefix: str, layer: int, out: Axis, ends_block: bool) -> TensorSpec:
        kind = name.removeprefix(prefix)
        return TensorSpec(name=name, kind=kind, layer=layer, axes=(out,), ends_block=ends_block)
