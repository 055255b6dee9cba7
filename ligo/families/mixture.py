"""Mixtures of experts: what they share.

In each layer a router takes each token to `experts_per_token` of the experts, with weights from a softmax over
their logits. A dense model grows into a mixture whose experts are all copies of its block (sparse upcycling,
Komatsuzaki et al., ICLR 2023, arXiv 2212.05055): as the weights sum to one, it does not matter which a token takes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from ligo.core.errors import CheckpointError, PlanError
from ligo.families.base import Family, kind_of
from ligo.families.llama import Llama
from ligo.families.spec import EXPERTS, RESIDUAL, Dims, Space, TensorSpec, reads, writes

# transformers knows the number of experts by both names, and writes the first
_KEYS = ("num_local_experts", "num_experts")
_MULTIPLE = 4  # rows of 16 bytes in float32: torch's grouped product, which runs the experts, takes no others
_NEW_PER_TOKEN = 2  # experts that a token takes where the small model is dense, as in Mixtral


class Mixture(Llama):
    """A decoder with a router and experts in each layer."""

    experts_key: ClassVar[str]
    """Key of the number of experts, as the architecture's authors write it."""

    @property
    def ffn_biases(self) -> bool:
        return False

    def extra_dims(self) -> dict[str, int]:
        key = next((key for key in _KEYS if key in self.config), self.experts_key)
        experts, taken = self._size(key), self._size("num_experts_per_tok")
        if taken > experts:
            raise CheckpointError(
                f"config.json says num_experts_per_tok={taken}, and there are {experts} experts.\n"
                "  Try: save the model again with save_pretrained"
            )
        return {"num_experts": experts, "experts_per_token": taken}

    def resized(self, dims: Dims) -> dict[str, Any]:
        return self.with_experts(super().resized(dims), dims)

    @classmethod
    def with_experts(cls, config: dict[str, Any], dims: Dims) -> dict[str, Any]:
        """A config.json with the target's experts.

        Raises:
            PlanError: a token would take more experts than there are, or they have sizes that do not run.
        """
        for key, size in (("hidden_size", dims.hidden_size), ("intermediate_size", dims.ffn_size)):
            if size % _MULTIPLE:
                raise PlanError(
                    f"{key} {size} is not a multiple of {_MULTIPLE}: all experts run as one grouped product, which torch "
                    "has for rows of 16 bytes and multiples of them only.\n"
                    f"  Try: target.{key}={-(-size // 8) * 8}, a multiple of 8, which runs in half precision too"
                )
        taken = dims.experts_per_token or min(_NEW_PER_TOKEN, dims.num_experts)
        if taken > dims.num_experts:
            raise PlanError(
                f"target.experts_per_token={taken}, and the target has {dims.num_experts} experts.\n"
                f"  Try: target.experts_per_token={dims.num_experts}"
            )
        others = {key: value for key, value in config.items() if key not in _KEYS}
        return {**others, cls.experts_key: dims.num_experts, "num_experts_per_tok": taken}

    @classmethod
    def dense_config(cls, small: Family, dims: Dims) -> dict[str, Any]:
        """What config.json of the mixture takes from that of a dense model.

        The two classes of transformers fill in different values where there is none, so all that count are written.
        """
        config = small.resized(dims)
        for key in ("hidden_act", "max_position_embeddings", "rms_norm_eps"):
            config[key] = small.setting(key)
        if "rope_theta" not in (config.get("rope_parameters") or {}):
            config["rope_theta"] = small.setting("rope_theta")
        return config

    def _spaces(self) -> list[Space]:
        return [*super()._spaces(), Space(name=EXPERTS, size=self.dims.num_experts)]

    def ffn_specs(
        self, at: str, layer: int, *, norm: str | None = None, ends_block: bool = True
    ) -> list[TensorSpec]:
        """The router, then each expert."""
        specs = self.linear_specs(f"{at}.gate", writes(EXPERTS), reads(RESIDUAL), layer, norm=norm)
        for expert in range(self.dims.num_experts):
            block = super().ffn_specs(f"{at}.experts.{expert}", layer, norm=norm, ends_block=ends_block)
            for spec, name, dense in zip(block, self.ffn_names, Llama.ffn_names, strict=True):
                specs.append(
                    replace(
                        spec,
                        kind=kind_of(f"{at}.experts.{name}", layer),
                        expert=expert,
                        active_share=self.dims.experts_per_token / self.dims.num_experts,
                        else_from=f"model.layers.{layer}.mlp.{dense}.weight",
                    )
                )
        return specs
