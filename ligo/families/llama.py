"""LLaMA: RMSNorm, rotary positions, gated FFN, grouped key/value heads, tied or untied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import FAMILIES
from ligo.families.spec import (
    FFN,
    HEADS,
    KV_HEADS,
    RESIDUAL,
    VOCAB,
    Dims,
    Space,
    TensorSpec,
    gain,
    reads,
    writes,
)


@FAMILIES.register("llama")
class Llama:
    """Touvron et al. 2023 (arXiv 2302.13971), as `LlamaForCausalLM` stores it."""

    model_types: tuple[str, ...] = ("llama",)

    def dims(self, config: Mapping[str, Any]) -> Dims:
        for key in ("attention_bias", "mlp_bias"):
            if config.get(key):
                raise CheckpointError(
                    f"config.json sets {key}=true, and biases of LLaMA models are not described yet.\n"
                    f"  Try: a checkpoint without them ({key}=false)"
                )
        for key in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "vocab_size",
        ):
            size = config.get(key, 1)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise CheckpointError(
                    f"config.json says {key}={size!r}, which is no size: it must be a whole number above zero.\n"
                    "  Try: save the model again with save_pretrained"
                )
        try:
            num_heads = config["num_attention_heads"]
            return Dims(
                num_layers=config["num_hidden_layers"],
                hidden_size=config["hidden_size"],
                num_heads=num_heads,
                num_kv_heads=config.get("num_key_value_heads") or num_heads,
                head_dim=config.get("head_dim") or config["hidden_size"] // num_heads,
                ffn_size=config["intermediate_size"],
                vocab_size=config["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except KeyError as error:
            raise CheckpointError(
                f"config.json lacks {error.args[0]!r}, which a LLaMA checkpoint needs.\n"
                "  Try: save the model again with save_pretrained"
            ) from error

    def spaces(self, dims: Dims) -> dict[str, Space]:
        return {
            RESIDUAL: Space(RESIDUAL, dims.hidden_size),
            HEADS: Space(HEADS, dims.num_heads, dims.head_dim),
            KV_HEADS: Space(KV_HEADS, dims.num_kv_heads, dims.head_dim),
            FFN: Space(FFN, dims.ffn_size),
            VOCAB: Space(VOCAB, dims.vocab_size),
        }

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        specs = [
            TensorSpec(
                name="model.embed_tokens.weight",
                kind="embed_tokens",
                axes=(writes(VOCAB), writes(RESIDUAL)),
                lookup=True,
            )
        ]
        for layer in range(dims.num_layers):
            specs += self._layer(layer)
        specs.append(TensorSpec(name="model.norm.weight", kind="norm", axes=(gain(RESIDUAL),)))
        if not dims.tied:
            head_axes = (writes(VOCAB), reads(RESIDUAL))
            specs.append(
                TensorSpec(name="lm_head.weight", kind="lm_head", axes=head_axes, gain="model.norm.weight")
            )
        return specs

    def _layer(self, layer: int) -> list[TensorSpec]:
        prefix = f"model.layers.{layer}."
        before_attention = prefix + "input_layernorm.weight"
        before_ffn = prefix + "post_attention_layernorm.weight"

        def matrix(kind: str, out: str, in_: str, norm: str | None = None) -> TensorSpec:
            return TensorSpec(
                name=f"{prefix}{kind}.weight",
                kind=kind,
                layer=layer,
                axes=(writes(out), reads(in_)),
                gain=norm,
                ends_block=out == RESIDUAL,
            )

        def norm(name: str) -> TensorSpec:
            kind = name.removeprefix(prefix).removesuffix(".weight")
            return TensorSpec(name=name, kind=kind, layer=layer, axes=(gain(RESIDUAL),))

        return [
            norm(before_attention),
            matrix("self_attn.q_proj", HEADS, RESIDUAL, before_attention),
            matrix("self_attn.k_proj", KV_HEADS, RESIDUAL, before_attention),
            matrix("self_attn.v_proj", KV_HEADS, RESIDUAL, before_attention),
            matrix("self_attn.o_proj", RESIDUAL, HEADS),
            norm(before_ffn),
            matrix("mlp.gate_proj", FFN, RESIDUAL, before_ffn),
            matrix("mlp.up_proj", FFN, RESIDUAL, before_ffn),
            matrix("mlp.down_proj", RESIDUAL, FFN),
        ]

    def target_config(self, config: Mapping[str, Any], dims: Dims) -> dict[str, Any]:
        if dims.hidden_size % dims.num_heads:
            raise PlanError(
                f"hidden_size {dims.hidden_size} is not a multiple of {dims.num_heads} query heads, "
                "which transformers requires of a LLaMA config.\n"
                f"  Try: target.hidden_size={-(-dims.hidden_size // dims.num_heads) * dims.num_heads}"
            )
        if dims.num_heads % dims.num_kv_heads:
            raise PlanError(
                f"{dims.num_heads} query heads do not divide into {dims.num_kv_heads} key/value heads: "
                "each key/value head serves a whole group of query heads.\n"
                f"  Try: target.num_attention_heads={-(-dims.num_heads // dims.num_kv_heads) * dims.num_kv_heads}"
                f" or target.num_key_value_heads={_largest_divisor(dims.num_heads, dims.num_kv_heads)}"
            )
        return {
            **config,
            "num_hidden_layers": dims.num_layers,
            "hidden_size": dims.hidden_size,
            "num_attention_heads": dims.num_heads,
            "num_key_value_heads": dims.num_kv_heads,
            "head_dim": dims.head_dim,
            "intermediate_size": dims.ffn_size,
        }

    def attention_flops(self, dims: Dims, sequence_length: int) -> int:
        # scores and weighted sum, each 2 FLOPs per (key, coordinate)
        return 4 * dims.num_layers * sequence_length * dims.num_heads * dims.head_dim


def _largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, at_most + 1) if number % d == 0)
