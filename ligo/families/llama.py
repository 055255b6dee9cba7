"""LLaMA: RMSNorm, rotary positions, gated FFN, grouped key/value heads, tied or untied head.

SmolLM checkpoints are of this family. Those that differ from it in a detail (Mistral, Qwen2, Qwen3, Gemma, Phi-3,
OLMo 2, and the mixtures of experts) inherit from it and say what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.core.errors import PlanError
from ligo.families.base import FAMILIES, Family, kind_of
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
_PLAIN_ROPE = {"default", "linear", "llama3"}


@FAMILIES.register("llama")
class Llama(Family):
    """As `LlamaForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("llama",)
    reference: ClassVar[str] = "LLaMA (Touvron et al. 2023, arXiv 2302.13971)"
    norm: ClassVar[Norm] = Norm.RMS
    kv_heads_key: ClassVar[str | None] = "num_key_value_heads"
    head_dim_key: ClassVar[str | None] = "head_dim"
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }

    embedding: ClassVar[str] = "model.embed_tokens.weight"
    final_norm: ClassVar[str] = "model.norm.weight"
    ffn: ClassVar[str] = "mlp"
    """Name of the feed-forward block in a layer."""
    ffn_names: ClassVar[tuple[str, str, str]] = ("gate_proj", "up_proj", "down_proj")
    norm_offset: ClassVar[float] = 0.0
    hidden_in_heads: ClassVar[bool] = True
    """Whether transformers wants hidden_size to be a multiple of the query heads, whatever head_dim says."""
    head_norm: ClassVar[Norm | None] = None
    """Norm on queries and keys."""
    all_heads_norm: ClassVar[bool] = False
    """Whether that norm is over all heads at once, and not over each."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        implied = self.implied_layer_types()
        if implied and not self.config.get("layer_types"):
            # written out, so that each layer keeps its own when depth grows
            self.config["layer_types"] = implied

    def implied_layer_types(self) -> list[str]:
        """`layer_types` where config.json gives them by a rule; empty where all layers attend alike."""
        return []

    @property
    def attention_biases(self) -> str:
        """Which of q, k, v, o have biases."""
        return "qkvo" if self.setting("attention_bias") else ""

    @property
    def ffn_biases(self) -> bool:
        return bool(self.setting("mlp_bias"))

    @property
    def rotary(self) -> int:
        """Coordinates of a head that are turned."""
        return self.dims.head_dim

    @property
    def score_scale(self) -> float:
        """What attention scores are multiplied by."""
        return float(self.dims.head_dim**-0.5)

    @property
    def rope_types(self) -> set[str]:
        """How positions are turned: `rope_parameters`, or `rope_scaling` of older files; by layer type in Gemma 3."""
        parameters = [self.config.get(key) or {} for key in ("rope_parameters", "rope_scaling")]
        nested = [part for rope in parameters for part in rope.values() if isinstance(part, Mapping)]
        return {rope.get("rope_type") or rope.get("type") or "default" for rope in [*parameters, *nested]}

    def resized(self, dims: Dims) -> dict[str, Any]:
        if self.hidden_in_heads and dims.hidden_size % dims.num_heads:
            raise PlanError(
                f"hidden_size {dims.hidden_size} is not a multiple of {dims.num_heads} query heads, which transformers "
                f"requires of a {self.name} config.\n"
                f"  Try: target.hidden_size={-(-dims.hidden_size // dims.num_heads) * dims.num_heads}"
            )
        depends = sorted(self.rope_types - _PLAIN_ROPE)
        if dims.head_dim != self.dims.head_dim and depends:
            raise PlanError(
                f"heads of {self.dims.head_dim} coordinates cannot become heads of {dims.head_dim}: with rope_type "
                f"{depends[0]!r} the frequencies depend on the size of a head.\n"
                f"  Try: target.head_dim={self.dims.head_dim} and more heads"
            )
        return super().resized(dims)

    def _spaces(self) -> list[Space]:
        d = self.dims
        return [
            Space(name=RESIDUAL, size=d.hidden_size, norm=self.norm),
            *self.attention_spaces(
                rotary=self.rotary,
                score_scale=self.score_scale,
                head_norm=self.head_norm,
                all_heads_norm=self.all_heads_norm,
            ),
            Space(name=FFN, size=d.ffn_size),
            Space(name=VOCAB, size=d.vocab_size),
        ]

    def _tensors(self) -> list[TensorSpec]:
        layers = (self.layer(f"model.layers.{layer}", layer) for layer in range(self.dims.num_layers))
        return [
            self.embedding_spec(),
            *(spec for specs in layers for spec in specs),
            self.norm_spec(self.final_norm, before_head=True),
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
        """The output head; a tied one is not on disk."""
        if self.dims.tied:
            return []
        return self.linear_specs(
            "lm_head", writes(VOCAB), reads(RESIDUAL), norm=self.final_norm, else_from=self.embedding
        )

    def layer(self, at: str, layer: int) -> list[TensorSpec]:
        """The tensors of one layer, whose names begin with `at`, in file order."""
        before_attention, before_ffn = f"{at}.input_layernorm.weight", f"{at}.post_attention_layernorm.weight"
        return [
            self.norm_spec(before_attention, layer),
            *self.attention_specs(f"{at}.self_attn", layer, norm=before_attention),
            self.norm_spec(before_ffn, layer),
            *self.ffn_specs(f"{at}.{self.ffn}", layer, norm=before_ffn),
        ]

    def attention_specs(
        self, at: str, layer: int, *, norm: str | None = None, ends_block: bool = True
    ) -> list[TensorSpec]:
        """Queries, keys, values, the output projection, and the norms on queries and keys where there are any."""
        outputs = {
            "q": writes(HEADS, QUERY_DIM),
            "k": writes(KV_HEADS, KEY_DIM),
            "v": writes(KV_HEADS, VALUE_DIM),
            "o": writes(RESIDUAL),
        }
        specs = []
        for letter, out in outputs.items():
            last, bias = letter == "o", letter in self.attention_biases
            in_ = reads(HEADS, VALUE_DIM) if last else reads(RESIDUAL)
            reader_of, zeroed = None if last else norm, last and ends_block
            specs += self.linear_specs(
                f"{at}.{letter}_proj", out, in_, layer, norm=reader_of, ends_block=zeroed, bias=bias
            )
        if self.head_norm is not None:
            heads, kv_heads = ((HEADS,), (KV_HEADS,)) if self.all_heads_norm else ((), ())
            specs.append(self.norm_spec(f"{at}.q_norm.weight", layer, gain(*heads, QUERY_DIM)))
            specs.append(self.norm_spec(f"{at}.k_norm.weight", layer, gain(*kv_heads, KEY_DIM)))
        return specs

    def ffn_specs(
        self, at: str, layer: int, *, norm: str | None = None, ends_block: bool = True
    ) -> list[TensorSpec]:
        """Gate, up and down projection."""
        gate, up, down = (f"{at}.{name}" for name in self.ffn_names)
        bias = self.ffn_biases
        return [
            *self.linear_specs(gate, writes(FFN), reads(RESIDUAL), layer, norm=norm, bias=bias),
            *self.linear_specs(up, writes(FFN), reads(RESIDUAL), layer, norm=norm, bias=bias),
            *self.linear_specs(down, writes(RESIDUAL), reads(FFN), layer, ends_block=ends_block, bias=bias),
        ]

    def norm_spec(
        self,
        name: str,
        layer: int | None = None,
        axis: Axis | None = None,
        *,
        ends_block: bool = False,
        before_head: bool = False,
    ) -> TensorSpec:
        """The gain of a norm, on the residual stream unless `axis` says otherwise."""
        return TensorSpec(
            name=name,
            kind=kind_of(name.removesuffix(".weight"), layer),
            layer=layer,
            axes=(axis or gain(RESIDUAL),),
            offset=self.norm_offset,
            ends_block=ends_block,
            before_head=before_head,
        )
