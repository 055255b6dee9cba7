"""The learned maps, and the grown model as a function of them.

Every map is `start + delta` with delta zero at first, so learning begins at the start's function and
loss. The residual map is tied where the start's is: reading uses (D/D') times the expansion. Heads and FFN
units have their own expansion and reduction. Maps are shared by all layers unless `operator.per_layer` says
otherwise; depth coefficients are [L', L] per kind of tensor. Where gains cannot be folded into their readers they
are copied as the start copies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ligo.families.spec import FFN, HEADS, KV_HEADS, RESIDUAL, Norm, Role
from ligo.families.stock import as_running, skeleton
from ligo.growth.execute import ReadSource, make_tensor
from ligo.growth.plan import GrowthPlan
from ligo.learning.forms import make_delta
from ligo.operators.axes import layout_keys
from ligo.operators.config import OperatorConfig
from ligo.operators.copying import cyclic_index
from ligo.operators.exactness import foldable
from ligo.operators.factors import CopiesThenRows, Dense, Factor, Select
from ligo.operators.maps import GrowthMaps, LayerMap, SpaceMap
from ligo.training.optim import MuonWithAdamW, muon_norm

BETAS = (0.9, 0.95)


class LearnedMaps(nn.Module):
    """The parameters of a LiGO operator (Wang et al., ICLR 2023, arXiv 2303.00980) around any start.

    Parameters are float32, below `expand.<key>`, `reduce.<key>` (deltas of [n', n]) and `depth.<kind>` [L', L].
    """

    def __init__(self, plan: GrowthPlan, config: OperatorConfig) -> None:
        super().__init__()
        self._plan = plan
        self._fold = foldable(plan.small) and _folding_keeps_the_start(plan)
        self._starts = self._learnable(config.per_layer)
        self._ties = {key: _tie_ratio(key, start) for key, start in self._starts.items()}
        self._copies: dict[str, Select] = {}
        self.expand, self.reduce, self.depth = nn.ModuleDict(), nn.ModuleDict(), nn.ParameterDict()
        used = {
            key
            for job in plan.jobs
            for at in job.spec.axes
            if at.role is Role.READ
            for key in layout_keys(at.layout)
        }
        for key, start in self._starts.items():
            new = start.new_units
            self._make("expand", key, _with_fresh_rows(start), new, config)
            if self._ties[key] is None and key.split(".")[0] in used:
                self._make("reduce", key, start.reduce.matrix(), new, config)
        if config.depth_lr and plan.small.dims.num_layers != plan.target.dims.num_layers:
            for spec in (job.spec for job in plan.jobs if job.source is not None):
                kind = _module_name(spec.kind)
                folded = self._fold and spec.axes[0].role is Role.GAIN and RESIDUAL in spec.spaces(Role.GAIN)
                if spec.layer is not None and not folded and kind not in self.depth:
                    self._remember(f"depth_{kind}", plan.maps.layers.coefficients(spec.kind, spec.ends_block))
                    self.depth[kind] = nn.Parameter(torch.zeros(plan.maps.layers.weights.shape))

    def _learnable(self, per_layer: bool) -> dict[str, SpaceMap]:
        """The starts of the maps that are learned, by key; sizes of heads and vocabularies are not mixed."""
        learned: dict[str, SpaceMap] = {}
        for key, start in self._plan.maps.spaces.items():
            space = key.split(".")[0]
            if not start.grows or (space not in (RESIDUAL, HEADS, KV_HEADS, FFN) and not start.tied):
                continue
            if per_layer and space != RESIDUAL and "." not in key:
                layers = range(self._plan.target.dims.num_layers)
                learned |= {f"{key}.{layer}": start for layer in layers}
            else:
                learned[key] = start
        return learned

    def _make(self, group: str, key: str, start: np.ndarray, new: np.ndarray, config: OperatorConfig) -> None:
        """A map's start, and what is learned of it."""
        name = _module_name(key)
        self._remember(f"{group}_{name}", start)
        getattr(self, group)[name] = make_delta(config.form, config.rank, f"{group}.{key}")(start.shape, new)
        copies = _copies_above(start, new) if config.form == "new_rows" else None
        if copies is not None:
            self._copies[f"{group}_{name}"] = copies

    def _remember(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(f"start_{name}", torch.from_numpy(values).float(), persistent=False)

    def _learned(self, group: str, key: str) -> Dense | CopiesThenRows:
        name = _module_name(key)
        start: Tensor = getattr(self, f"start_{group}_{name}")
        copies, delta = self._copies.get(f"{group}_{name}"), getattr(self, group)[name]
        if copies is not None:
            return CopiesThenRows(copies, start[copies.shape[0] :] + delta.values, "learned")
        return Dense(start + delta(), "learned")

    def forward(self) -> GrowthMaps:
        """The maps as they stand, as tensors with gradients."""
        spaces = dict(self._plan.maps.spaces)
        for key, start in self._starts.items():
            expand, ratio = self._learned("expand", key), self._ties[key]
            if ratio is not None:
                reduce = expand.scaled(ratio)
            else:
                reduce = self._learned("reduce", key) if _module_name(key) in self.reduce else expand
            spaces[key] = replace(
                start,
                expand=expand,
                reduce=reduce,
                gain=expand if start.tied else start.gain,
                fold_gains=self._fold if key == RESIDUAL else False,
                keeps=frozenset(),
                faithful=False,
                fresh=None,
                split=self._split(start, expand.values),
            )
        learned = {}
        for kind in dict.fromkeys(job.spec.kind for job in self._plan.jobs):
            if _module_name(kind) in self.depth:
                start_depth: Tensor = getattr(self, f"start_depth_{_module_name(kind)}")
                learned[kind] = start_depth + self.depth[_module_name(kind)]
        layers = self._plan.maps.layers
        learned_layers = LayerMap(layers.weights, layers.identity_layers, learned)
        return GrowthMaps(spaces, learned_layers, self._plan.maps.fill)

    def _split(self, start: SpaceMap, expand: Tensor) -> tuple[Factor, Factor] | None:
        """What is learned goes to the layer's own share; that of the layer above stays as it was."""
        if start.split is None:
            return None
        above = torch.from_numpy(start.split[1].matrix()).to(expand)
        return Dense(expand - above, "learned"), start.split[1]

    def optimizer(self, config: OperatorConfig) -> torch.optim.Optimizer | None:
        """AdamW, or Muon with AdamW, each map at its own rate; None where nothing is learned."""
        muon, adamw = self.parameter_groups(config)
        if not muon:
            return torch.optim.AdamW(adamw, betas=BETAS, weight_decay=0.0) if adamw else None
        return MuonWithAdamW(muon, adamw, lr=config.depth_lr, betas=BETAS)

    def parameter_groups(self, config: OperatorConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Groups for Muon and for AdamW, with a step size that fits each shape.

        A coherent Adam step on an r x c map has spectral norm of about 0.85 lr sqrt(r c), so each map
        learns at eta / sqrt(r c): the relative spectral step is the same for every width. A step of Muon is orthogonal,
        times lr 0.2 sqrt(max(r, c)). With `operator.lr` all maps learn at that rate.
        """
        muon, adamw = [], [_group(list(self.depth.values()), config.depth_lr)]
        for parameter in [*self.expand.parameters(), *self.reduce.parameters()]:
            if config.optimizer == "muon" and parameter.ndim == 2:
                muon.append(_group([parameter], config.lr or config.eta / muon_norm(parameter.shape)))
            else:
                adamw.append(_group([parameter], config.lr or config.eta / parameter.numel() ** 0.5))
        return muon, [group for group in adamw if group["params"]]


def _group(parameters: list[nn.Parameter], lr: float) -> dict[str, Any]:
    return {"params": parameters, "lr": lr, "weight_decay": 0.0}


def _folding_keeps_the_start(plan: GrowthPlan) -> bool:
    """Not where weights with other gains, or none, are added to a reader: those of the layer above, fresh ones. And
    LayerNorm's shifts, divided by small gains, are no good start for learning."""
    maps = plan.maps
    added = maps.fill is not None or any(space_map.split is not None for space_map in maps.spaces.values())
    must = maps.spaces[RESIDUAL].gain is None
    return must or (plan.small.norm is Norm.RMS and not added and not maps.spaces[RESIDUAL].tied)


def _tie_ratio(key: str, start: SpaceMap) -> float | None:
    """The number that the writing map is multiplied by for reading, where the two are learned as one."""
    if start.tied:
        return 1.0
    rows, columns = start.expand.shape
    if key != RESIDUAL:
        return None
    return (
        columns / rows if np.allclose(start.reduce.matrix(), start.expand.matrix() * columns / rows) else None
    )


def _with_fresh_rows(start: SpaceMap) -> np.ndarray:
    """The start's expansion; units that nothing reads yet are written as copies, so that learning can move them."""
    expand = start.expand.matrix()
    if start.fresh is not None:
        copies = cyclic_index(expand.shape[1], len(expand))
        expand[start.fresh] = np.eye(expand.shape[1])[copies[start.fresh]]
    return expand


def _copies_above(start: np.ndarray, new: np.ndarray) -> Select | None:
    """The rows of old units, where they come first and each copies one unit at most; they are not learned."""
    old = start[: np.count_nonzero(~new)]
    if new[: len(old)].any() or (np.count_nonzero(old, axis=1) > 1).any():
        return None
    index = np.abs(old).argmax(axis=1)
    return Select(index, old[np.arange(len(old)), index], start.shape[1])


def _module_name(key: str) -> str:
    return key.replace(".", "_").replace("*", "_x_")  # module names hold no dots


def detached(maps: GrowthMaps) -> GrowthMaps:
    """The same maps without gradients, for writing."""

    def fixed(factor: Factor | None) -> Any:
        if isinstance(factor, Dense) and isinstance(factor.values, Tensor):
            return Dense(factor.values.detach().clone(), factor.label)
        if isinstance(factor, CopiesThenRows):
            return replace(factor, rows=factor.rows.detach().clone())
        return factor

    spaces = {
        key: replace(
            m,
            expand=fixed(m.expand),
            reduce=fixed(m.reduce),
            gain=fixed(m.gain),
            split=None if m.split is None else (fixed(m.split[0]), m.split[1]),
        )
        for key, m in maps.spaces.items()
    }
    learned = {kind: values.detach().clone() for kind, values in maps.layers.learned.items()}
    return GrowthMaps(spaces, replace(maps.layers, learned=learned), maps.fill)


def grown_parameters(
    plan: GrowthPlan, maps: GrowthMaps, small: ReadSource, *, seed: int = 0
) -> dict[str, Tensor]:
    """All target weights as functions of the maps: name on disk -> tensor, with autograd.

    Args:
        small: from `growth.execute.sources`.
        seed: of what is random; the one that it will be written with.
    """
    return {
        job.spec.name: make_tensor(job, plan, maps, small, seed=seed, dtype=torch.float32)
        for job in plan.jobs
    }


class TargetFunction:
    """The target as a function of its weights: `function(weights)(input_ids=...)` is the model's output."""

    def __init__(self, plan: GrowthPlan) -> None:
        self._model = skeleton(plan.target)
        self._aliases = {alias: spec.name for spec in plan.target.tensors for alias in spec.aliases}

    def __call__(self, weights: Mapping[str, Tensor]) -> Callable[..., Any]:
        """
        Args:
            weights: by name on disk, all of them.
        """
        running = as_running(self._model, weights)
        running |= {alias: weights[name] for alias, name in self._aliases.items()}

        def run(**inputs: Any) -> Any:
            return torch.func.functional_call(self._model, running, (), inputs, tie_weights=False)

        return run
