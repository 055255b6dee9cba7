"""Growth as data: everything that will be done, before any weight is read.

A plan can be printed, tested, costed and compared on a machine without weights, GPU or torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ligo.core.errors import PlanError
from ligo.families.base import Family, family_of
from ligo.families.spec import EXPERTS, KEY_DIM, QUERY_DIM, RESIDUAL, VALUE_DIM, Role, TensorSpec
from ligo.operators.axes import PickFactor, layout_flops
from ligo.operators.base import Shapes
from ligo.operators.config import Operator
from ligo.operators.exactness import Exactness, exactness
from ligo.operators.factors import Factor, Select
from ligo.operators.maps import GrowthMaps, LayerMap


@dataclass(frozen=True)
class TensorJob:
    """One tensor of the target: what it is made from, and what making it costs."""

    spec: TensorSpec
    shape: tuple[int, ...]
    source: TensorSpec | None
    """The small tensor that it grows from, of the first layer; None: it is drawn fresh."""
    sources: tuple[str, ...]
    """Names of the small tensors that have a share in it, one per small layer that is used."""
    flops: int

    def source_name(self, layer: int) -> str:
        """The small tensor in one of the small layers."""
        assert self.source is not None
        return self.source.name if self.source.layer is None else in_layer(self.source.name, 0, layer)


@dataclass(frozen=True)
class GrowthPlan:
    """A growth, decided: two models, the maps between them, one job per target tensor."""

    shapes: Shapes
    maps: GrowthMaps
    exactness: Exactness
    jobs: tuple[TensorJob, ...]
    references: tuple[str, ...]
    """Where the operators were published."""
    notes: tuple[str, ...] = ()
    """What happens beside growing, in words: an untied head, fresh routers."""

    @property
    def small(self) -> Family:
        return self.shapes.small

    @property
    def target(self) -> Family:
        return self.shapes.target

    @property
    def small_config(self) -> dict[str, Any]:
        return self.small.config

    @property
    def target_config(self) -> dict[str, Any]:
        return self.target.config

    @property
    def read_back(self) -> np.ndarray | None:
        """Float64 [D', D]: hidden states of the grown model times this are those of the small one, in a growth that is
        exact. None where there is a head: its logits are the same as they are."""
        return None if self.small.has_head else self.maps.spaces[RESIDUAL].reduce.matrix()

    @cached_property
    def job_of(self) -> dict[str, TensorJob]:
        """Jobs by the name of the tensor that they make."""
        return {job.spec.name: job for job in self.jobs}

    def build_flops(self, maps: GrowthMaps) -> int:
        """FLOPs of building all target weights once with these maps; copies are free."""
        return sum(build_flops(job.spec, job.source, self.shapes, maps) for job in self.jobs)

    def space_table(self) -> list[dict[str, Any]]:
        """One row per space: name, sizes in units, ratio, the map in words."""
        rows = []
        for name in self.shapes.shared():
            small, target = self.shapes.sizes(name)
            if name in (QUERY_DIM, KEY_DIM, VALUE_DIM) and (small == target or name != QUERY_DIM):
                continue  # the size of a head, shown once, and only where it grows
            space_map = self.maps.spaces[name]
            rows.append(
                {
                    "space": "head_dim" if name == QUERY_DIM else name,
                    "small": small,
                    "target": target,
                    "ratio": round(target / small, 4),
                    "map": space_map.expand.describe() if space_map.grows else "as it is",
                    "exact": self.exactness.exact or not space_map.grows or self._keeps(name),
                }
            )
        return rows

    def _keeps(self, name: str) -> bool:
        space_map, norm = self.maps.spaces[name], self.small.spaces[name].norm
        return space_map.faithful and (norm is None or norm in space_map.keeps)

    def as_json(self) -> dict[str, Any]:
        """The plan as plain data, for plan.json and `output=json`."""
        return {
            "small": dict(self.small_config),
            "target": dict(self.target_config),
            "spaces": self.space_table(),
            "layers": {
                "small": self.small.dims.num_layers,
                "target": self.target.dims.num_layers,
                "map": [[int(j) for j in np.flatnonzero(row)] for row in self.maps.layers.weights],
                "identity_blocks": sorted(self.maps.layers.identity_layers),
                "description": self.maps.layers.describe(),
                "connection_rate": round(self.maps.layers.connection_rate, 4),
            },
            "exactness": {"exact": self.exactness.exact, "verdict": self.exactness.reason},
            "notes": list(self.notes),
            "references": list(self.references),
            "parameters": {"small": self.small.num_parameters, "target": self.target.num_parameters},
            "tensors": len(self.jobs),
        }


def plan_growth(
    small_config: Mapping[str, Any], wanted: Mapping[str, int | None], operator: Operator
) -> GrowthPlan:
    """Decide a growth.

    Args:
        small_config: the small model's `config.json`.
        wanted: target sizes by `Dims` field; None or absent means as in the small model.

    Raises:
        PlanError: the target is smaller somewhere, heads do not divide, or the operator cannot do it.
    """
    small, notes = family_of(small_config), []
    dims = small.target_dims(wanted)
    if dims == small.dims:
        raise PlanError(
            "the target has the same sizes as the small model: there is nothing to grow.\n"
            "  Try: target.hidden_size=..., target.num_hidden_layers=... or another target="
        )
    widens = dims.hidden_size != small.dims.hidden_size
    if dims.tied and operator.width.mixes_coordinates and widens:
        dims = replace(dims, tied=False)
        notes.append(
            "the output head is untied: with a residual map that mixes coordinates it reads otherwise than the "
            "embedding writes"
        )
    target = family_of(_target_config(small, dims))
    small.check_target(target)
    maps = operator.maps(Shapes(small, target))
    target = family_of(spread_over_layers(target.config, maps.layers, small.dims.num_layers))
    shapes = Shapes(small, target)
    jobs = tuple(_job(spec, shapes, maps) for spec in target.tensors)
    fresh = [job.spec.kind for job in jobs if job.source is None]
    if fresh:
        notes.append(f"drawn fresh: {', '.join(dict.fromkeys(fresh))}")
    verdict = exactness(shapes, maps)
    return GrowthPlan(shapes, maps, verdict, jobs, tuple(operator.references()), tuple(notes))


def _target_config(small: Family, dims: Any) -> dict[str, Any]:
    if dims.num_experts and not small.dims.num_experts:
        return small.mixture_config(dims)
    return small.resized(dims)


def check_moments(plan: GrowthPlan, how: str) -> None:
    """Refuse to keep the Adam moments of old coordinates where there are none.

    Raises:
        PlanError: the operator mixes the coordinates of the residual stream.
    """
    if how == "keep_old" and plan.maps.spaces[RESIDUAL].fold_gains:
        raise PlanError(
            "operator.optimizer_state=keep_old keeps the moments of coordinates that are still there, and this operator "
            "mixes the coordinates of the residual stream, so that none is.\n  Try: operator.optimizer_state=grow"
        )


def spread_over_layers(config: Mapping[str, Any], layers: LayerMap, num_small: int) -> dict[str, Any]:
    """config.json with each list that has an entry per small layer (`layer_types`) spread as the layers are."""
    spread = dict(config)
    if len(layers.weights) != num_small:
        for key, value in config.items():
            one_per_layer = isinstance(value, list) and len(value) == num_small
            if one_per_layer and key != "architectures" and not key.endswith("token_id"):
                spread[key] = [value[layers.main_source(layer)] for layer in range(len(layers.weights))]
    return spread


def in_layer(name: str, layer: int, other: int) -> str:
    """The name of the same tensor in another layer."""
    return name.replace(f".{layer}.", f".{other}.", 1)


def depth_row(spec: TensorSpec, maps: GrowthMaps) -> list[tuple[int, Any]]:
    """(small layer, weight) for each small layer with a share in this tensor; weights may be tensors."""
    if spec.layer is None:
        return [(0, 1.0)]
    row = maps.layers.coefficients(spec.kind, spec.ends_block)[spec.layer]
    if spec.kind in maps.layers.learned:
        return list(enumerate(row))
    return [(int(layer), float(row[layer])) for layer in np.flatnonzero(row)]


def axis_factors(spec: TensorSpec, axis: int, maps: GrowthMaps, above: bool | None = None) -> PickFactor:
    """Space (or layout in words) -> the factor that grows one axis of a tensor; None where nothing is to be done.

    Args:
        above: False, True: the share of the layer itself, of the one above it (`SpaceMap.split`); None: all.
    """
    role = spec.axes[axis].role

    def pick(key: str) -> Factor | None:
        space_map = maps.space(key, spec.layer)
        if space_map is None or space_map.is_identity():
            return None
        if role is Role.READ:
            return space_map.reduce
        if role is Role.SHIFT:
            return space_map.seen
        if role is Role.GAIN:
            return space_map.gain
        return space_map.expand if above is None or space_map.split is None else space_map.split[above]

    return pick


def has_share_from_above(spec: TensorSpec, maps: GrowthMaps) -> bool:
    """Whether new units of this tensor come from the layer above."""
    split = {name for name, space_map in maps.spaces.items() if space_map.split is not None}
    return spec.layer is not None and bool(split & spec.spaces(Role.WRITE))


def _job(spec: TensorSpec, shapes: Shapes, maps: GrowthMaps) -> TensorJob:
    source = source_of(spec, shapes.small, maps)
    flops = build_flops(spec, source, shapes, maps)
    job = TensorJob(spec, spec.shape(shapes.target.spaces), source, (), flops)
    if source is None:
        return job
    return replace(job, sources=tuple(job.source_name(layer) for layer, _ in depth_row(spec, maps)))


def source_of(spec: TensorSpec, small: Family, maps: GrowthMaps) -> TensorSpec | None:
    """The small tensor, of the first layer, that a target tensor grows from; None where there is none."""
    name = spec.name
    experts = maps.spaces.get(EXPERTS)
    if spec.expert is not None and experts is not None:
        assert isinstance(experts.expand, Select)
        name = f".experts.{experts.expand.index[spec.expert]}.".join(
            spec.name.split(f".experts.{spec.expert}.", 1)
        )
    for candidate in (name, spec.else_from):
        if candidate is not None:
            first = candidate if spec.layer is None else in_layer(candidate, spec.layer, 0)
            if first in small.by_name:
                return small.by_name[first]
    return None


def build_flops(spec: TensorSpec, source: TensorSpec | None, shapes: Shapes, maps: GrowthMaps) -> int:
    """FLOPs of making one target tensor once: depth mixing and the dense width maps; copies are free."""
    if source is None or spec.axes[0].role in (Role.GAIN, Role.SHIFT):
        return 0
    shape, grown = list(spec.shape(shapes.small.spaces | _new(shapes))), spec.shape(shapes.target.spaces)
    row = depth_row(spec, maps)
    total = 0 if len(row) <= 1 else 2 * len(row) * int(np.prod(shape))
    for axis, at in enumerate(spec.axes):
        columns = int(np.prod(shape)) // shape[axis]
        total += layout_flops(
            at.layout, columns, axis_factors(spec, axis, maps), shapes.small.spaces | _new(shapes)
        )
        shape[axis] = grown[axis]
    return total


def _new(shapes: Shapes) -> dict[str, Any]:
    """The spaces that the target alone has."""
    return {name: space for name, space in shapes.target.spaces.items() if name not in shapes.small.spaces}
