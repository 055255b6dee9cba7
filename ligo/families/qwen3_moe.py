"""Qwen3-MoE: Qwen3 with experts in every layer. Qwen3 models grow into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.core.errors import PlanError
from ligo.families.base import FAMILIES, Family
from ligo.families.mixture import Mixture
from ligo.families.qwen3 import Qwen3
from ligo.families.spec import Dims


@FAMILIES.register("qwen3_moe")
class Qwen3Moe(Mixture, Qwen3):
    """As `Qwen3MoeForCausalLM` stores it; the sliding window, where there is one, is that of all layers."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_moe",)
    dense_model_types: ClassVar[tuple[str, ...]] = ("qwen3",)
    experts_key: ClassVar[str] = "num_experts"
    size_keys: ClassVar[Mapping[str, str]] = {**Mixture.size_keys, "ffn_size": "moe_intermediate_size"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 4,
    }

    def check_variant(self) -> None:
        if self.config.get("mlp_only_layers") or self.config.get("decoder_sparse_step", 1) != 1:
            key = "mlp_only_layers" if self.config.get("mlp_only_layers") else "decoder_sparse_step"
            raise self.refuse(
                key, "some layers would have no experts", "a checkpoint with experts in every layer"
            )

    def implied_layer_types(self) -> list[str]:
        return []

    @classmethod
    def config_from_dense(cls, small: Family, dims: Dims) -> dict[str, Any]:
        assert isinstance(small, Qwen3)
        kinds = set(small.config["layer_types"])
        if len(kinds) > 1:
            raise PlanError(
                f"the layers of the small model attend in {len(kinds)} ways (layer_types: {', '.join(sorted(kinds))}), "
                f"and those of {cls.__name__} all alike.\n  Try: leave target.num_experts out"
            )
        config = cls.with_experts(cls.dense_config(small, dims), dims)
        for key in ("layer_types", "max_window_layers"):
            config.pop(key, None)
        return {
            **config,
            "model_type": "qwen3_moe",
            "architectures": ["Qwen3MoeForCausalLM"],
            "use_sliding_window": kinds == {"sliding_attention"},
            "sliding_window": small.window,
            "moe_intermediate_size": dims.ffn_size,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
