"""Mixtral: Mistral with experts. LLaMA and Mistral models without biases grow into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ligo.core.errors import PlanError
from ligo.families.base import FAMILIES, Family
from ligo.families.mistral import Mistral
from ligo.families.mixture import Mixture
from ligo.families.spec import Dims


@FAMILIES.register("mixtral")
class Mixtral(Mixture, Mistral):
    """As `MixtralForCausalLM` stores it."""

    model_types: ClassVar[tuple[str, ...]] = ("mixtral",)
    reference: ClassVar[str] = "Mixtral of experts (Jiang et al. 2024, arXiv 2401.04088)"
    dense_model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    experts_key: ClassVar[str] = "num_local_experts"
    ffn: ClassVar[str] = "block_sparse_moe"
    ffn_names: ClassVar[tuple[str, str, str]] = ("w1", "w3", "w2")
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_experts_per_tok": 2,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
    }

    @classmethod
    def config_from_dense(cls, small: Family, dims: Dims) -> dict[str, Any]:
        for key in ("attention_bias", "mlp_bias"):
            if small.setting(key):
                raise PlanError(
                    f"config.json of the small model says {key}=true, and {cls.__name__} has no biases.\n"
                    "  Try: leave target.num_experts out"
                )
        config = cls.with_experts(cls.dense_config(small, dims), dims)
        for key in ("attention_bias", "mlp_bias", "pretraining_tp"):
            config.pop(key, None)
        slides = isinstance(small, Mistral)
        return {
            **config,
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "sliding_window": small.config.get("sliding_window", small.defaults["sliding_window"])
            if slides
            else None,
        }
