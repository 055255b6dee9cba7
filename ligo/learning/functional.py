"""The learned maps, and the grown model as a function of them.

Every map is `start + delta` with delta zero at first, so learning begins at the start's function and
loss. The residual map is tied where the start's is: reading uses (D/D') times the expansion. Heads and FFN
units have their own expansion and reduction. All are shared by all layers; depth coefficients are [L', L] per kind of
tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ligo.families.spec import RESIDUAL, Role
from ligo.growth.execute import fold_gains, grow_tensor
from ligo.growth.plan import GrowthPlan
from ligo.operators.maps import Dense, GrowthMaps, LayerMap, SpaceMap
from ligo.training.objectives import next_token_loss


class LearnedMaps(nn.Module):
    """The parameters of a LiGO operator (Wang et al., ICLR 2023, arXiv 2303.00980) around any start.

    Parameters are float32: `expand.<space>` and `reduce.<space>` [n', n], `depth.<kind>` [L', L].
    """

    def __init__(self, plan: GrowthPlan) -> None:
        super().__init__()
        self._plan = plan
        start = plan.maps
        self.expand, self.reduce, self.depth = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, space_map in start.spaces.items():
            if not space_map.grows:
                continue
            self._start(f"expand.{name}", space_map.expand.matrix())
            self.expand[name] = nn.Parameter(torch.zeros(space_map.expand.shape))
            if not _is_tied(name, space_map) and _is_read(plan, name):
                self._start(f"reduce.{name}", space_map.reduce.matrix())
                self.reduce[name] = nn.Parameter(torch.zeros(space_map.reduce.shape))
        if plan.small.dims.num_layers != plan.target.dims.num_layers:
            for spec in (job.spec for job in plan.jobs):
                key = _key(spec.kind)
                if spec.layer is not None and spec.axes[0].role is not Role.GAIN and key not in self.depth:
                    self._start(f"depth.{key}", start.layers.coefficients(spec.kind, spec.ends_block))
                    self.depth[key] = nn.Parameter(torch.zeros(start.layers.weights.shape))

    def _start(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(
            "start_" + name.replace(".", "_"), torch.from_numpy(values).float(), persistent=False
        )

    def _learned(self, group: str, name: str) -> Tensor:
        start: Tensor = getattr(self, f"start_{group}_{name}")
        return start + getattr(self, group)[name]

    def forward(self) -> GrowthMaps:
        """The maps as they stand, as tensors with gradients."""
        spaces: dict[str, SpaceMap] = {}
        for name, start in self._plan.maps.spaces.items():
            if name not in self.expand:
                spaces[name] = start
                continue
            expand = self._learned("expand", name)
            if _is_tied(name, start):
                rows, columns = expand.shape
                reduce = expand * (columns / rows)
            else:
                reduce = self._learned("reduce", name) if name in self.reduce else expand
            # a map that mixes coordinates cannot copy gains: they are folded into their readers
            spaces[name] = SpaceMap(
                Dense(expand, "learned"), Dense(reduce, "learned"), start.unit_size, None, start.tied_gain
            )
        learned = {
            kind: self._learned("depth", _key(kind)) for kind in self._kinds() if _key(kind) in self.depth
        }
        layers = self._plan.maps.layers
        return GrowthMaps(spaces, LayerMap(layers.weights, layers.identity_layers, learned))

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(job.spec.kind for job in self._plan.jobs))

    def parameter_groups(self, eta: float, depth_lr: float) -> list[dict[str, Any]]:
        """Adam groups with a step size that fits each shape.

        A coherent Adam step on an r x c map has spectral norm of about 0.85 lr sqrt(r c), so each map
        learns at eta / sqrt(r c): the relative spectral step is the same for every width.
        """
        groups: list[dict[str, Any]] = [{"params": list(self.depth.values()), "lr": depth_lr}]
        for parameter in [*self.expand.values(), *self.reduce.values()]:
            groups.append({"params": [parameter], "lr": eta / parameter.numel() ** 0.5})
        return [group for group in groups if group["params"]]


def _is_tied(name: str, start: SpaceMap) -> bool:
    """Whether the residual stream is read with (D/D') times what it is written with."""
    rows, columns = start.expand.shape
    return name == RESIDUAL and np.allclose(start.reduce.matrix(), start.expand.matrix() * columns / rows)


def _key(kind: str) -> str:
    return kind.replace(".", "_")  # module names hold no dots


def _is_read(plan: GrowthPlan, space: str) -> bool:
    return any(at.space == space and at.role is Role.READ for job in plan.jobs for at in job.spec.axes)


def detached(maps: GrowthMaps) -> GrowthMaps:
    """The same maps without gradients, for writing."""

    def fixed(factor: Any) -> Any:
        if isinstance(factor, Dense) and isinstance(factor.values, Tensor):
            return Dense(factor.values.detach().clone(), factor.label)
        return factor

    spaces = {
        name: SpaceMap(fixed(m.expand), fixed(m.reduce), m.unit_size, m.gain, m.tied_gain)
        for name, m in maps.spaces.items()
    }
    learned = {kind: values.detach().clone() for kind, values in maps.layers.learned.items()}
    return GrowthMaps(spaces, LayerMap(maps.layers.weights, maps.layers.identity_layers, learned))


def skeleton(target_config: Mapping[str, Any]) -> nn.Module:
    """The target model without weights (they are on the meta device); its rotary tables are real."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**target_config)).eval()


def folded_small(plan: GrowthPlan, maps: GrowthMaps, small: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The frozen small tensors as `grown_parameters` wants them: gains folded once, not at every step."""
    read = fold_gains(plan, maps, small.__getitem__)
    return {name: read(name) for name in small}


def grown_parameters(plan: GrowthPlan, maps: GrowthMaps, small: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All target weights as functions of the maps: name -> tensor, with autograd.

    Args:
        small: from `folded_small`.
    """
    tied = plan.small.dims.tied
    grown = {job.spec.name: grow_tensor(job.spec, maps, small.__getitem__, tied=tied) for job in plan.jobs}
    return with_tied_head(plan, grown)


def with_tied_head(plan: GrowthPlan, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the head's name for the embedding table, which is on disk only once."""
    return (
        {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
        if plan.small.dims.tied
        else weights
    )


def causal_lm_loss(model: nn.Module, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Mean next-token cross-entropy in nats of token windows [batch, length + 1] under given weights."""
    output = torch.func.functional_call(
        model, dict(weights), (tokens[:, :-1],), {"use_cache": False}, tie_weights=False
    )
    return next_token_loss(output.logits, tokens)
