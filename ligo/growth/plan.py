"""Growth as data: everything that will be done, before any weight is read.

A plan can be printed, tested, costed and compared on a machine without weights, GPU or torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ligo.core.errors import PlanError
from ligo.families.base import Family, parameter_count, target_dims
from ligo.families.spec import Role, TensorSpec
from ligo.operators.base import Exactness, Shapes
from ligo.operators.config import Operator
from ligo.operators.maps import GrowthMaps, SpaceMap


@dataclass(frozen=True)
class TensorJob:
    """One tensor of the target: what it is made from, and what making it costs."""

    spec: TensorSpec
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    """Names of the small tensors that have a share in it, one per small layer that is used."""
    flops: int


@dataclass(frozen=True)
class GrowthPlan:
    """A growth, decided: two configs, the maps between them, one job per target tensor."""

    family: Family
    small_config: Mapping[str, Any]
    target_config: Mapping[str, Any]
    shapes: Shapes
    maps: GrowthMaps
    exactness: Exactness
    jobs: tuple[TensorJob, ...]

    @property
    def small_parameters(self) -> int:
        return parameter_count(self.family, self.shapes.small)

    @property
    def target_parameters(self) -> int:
        return parameter_count(self.family, self.shapes.target)

    def build_flops(self, maps: GrowthMaps) -> int:
        """FLOPs of building all target weights once with these maps; copies are free."""
        return sum(build_flops(job.spec, self.shapes, maps) for job in self.jobs)

    def space_table(self) -> list[dict[str, Any]]:
        """One row per space: name, sizes in units, ratio, the map in words."""
        rows = []
        for name, space in self.shapes.small_spaces.items():
            target = self.shapes.target_spaces[name]
            space_map = self.maps.spaces[name]
            rows.append(
                {
                    "space": name,
                    "small": space.num_units,
                    "target": target.num_units,
                    "unit_size": space.unit_size,
                    "ratio": round(target.num_units / space.num_units, 4),
                    "map": space_map.expand.describe() if space_map.grows else "as it is",
                    "exact": self.exactness.exact or not space_map.grows or preserves(space_map),
                }
            )
        return rows

    def as_json(self) -> dict[str, Any]:
        """The plan as plain data, for plan.json and `output=json`."""
        return {
            "small": dict(self.small_config),
            "target": dict(self.target_config),
            "spaces": self.space_table(),
            "layers": {
                "small": self.shapes.small.num_layers,
                "target": self.shapes.target.num_layers,
                "map": [[int(j) for j in np.flatnonzero(row)] for row in self.maps.layers.weights],
                "identity_blocks": sorted(self.maps.layers.identity_layers),
                "description": self.maps.layers.describe(),
            },
            "exactness": {"exact": self.exactness.exact, "verdict": self.exactness.reason},
            "parameters": {"small": self.small_parameters, "target": self.target_parameters},
            "tensors": len(self.jobs),
        }


def preserves(space_map: SpaceMap) -> bool:
    """Whether reading undoes writing: reduce @ expand = I."""
    product = space_map.reduce.matrix().T @ space_map.expand.matrix()
    return bool(np.allclose(product, np.eye(len(product)), atol=1e-12))


def plan_growth(
    family: Family, small_config: Mapping[str, Any], wanted: Mapping[str, int | None], operator: Operator
) -> GrowthPlan:
    """Decide a growth.

    Args:
        small_config: the small model's `config.json`.
        wanted: target sizes by `Dims` field; None or absent means as in the small model.

    Raises:
        PlanError: the target is smaller somewhere, heads do not divide, or the operator cannot do it.
    """
    small = family.dims(small_config)
    target = target_dims(small, wanted)
    if target == small:
        raise PlanError(
            "the target has the same sizes as the small model: there is nothing to grow.\n"
            "  Try: target.hidden_size=..., target.num_hidden_layers=... or another target="
        )
    target_config = family.target_config(small_config, target)
    shapes = Shapes(small, target, family.spaces(small), family.spaces(target))
    maps = operator.maps(shapes)
    jobs = tuple(_job(spec, shapes, maps, family) for spec in family.tensors(target))
    return GrowthPlan(
        family, dict(small_config), target_config, shapes, maps, operator.exactness(shapes), jobs
    )


def source_name(spec: TensorSpec, layer: int) -> str:
    """The small tensor of the same kind in another layer."""
    return spec.name if spec.layer is None else spec.name.replace(f".{spec.layer}.", f".{layer}.", 1)


def depth_row(spec: TensorSpec, maps: GrowthMaps) -> list[tuple[int, Any]]:
    """(small layer, weight) for each small layer with a share in this tensor; weights may be tensors."""
    if spec.layer is None:
        return [(0, 1.0)]
    row = maps.layers.coefficients(spec.kind, spec.ends_block)[spec.layer]
    if spec.kind in maps.layers.learned:
        return list(enumerate(row))
    return [(int(layer), float(row[layer])) for layer in np.flatnonzero(row)]


def map_axes(spec: TensorSpec, maps: GrowthMaps) -> list[tuple[int, Any, int]]:
    """(axis, factor, unit size) for each axis of a writer or reader that its space map changes."""
    changed = []
    for axis, at in enumerate(spec.axes):
        space_map = maps.spaces[at.space]
        if at.role is not Role.GAIN and not space_map.is_identity():
            factor = space_map.expand if at.role is Role.WRITE else space_map.reduce
            changed.append((axis, factor, space_map.unit_size))
    return changed


def _job(spec: TensorSpec, shapes: Shapes, maps: GrowthMaps, family: Family) -> TensorJob:
    sources = tuple(source_name(spec, layer) for layer, _ in depth_row(spec, maps))
    return TensorJob(spec, spec.shape(shapes.target_spaces), sources, build_flops(spec, shapes, maps))


def build_flops(spec: TensorSpec, shapes: Shapes, maps: GrowthMaps) -> int:
    """FLOPs of making one target tensor once: depth mixing and the dense width maps; copies are free."""
    sizes = list(spec.shape(shapes.small_spaces))
    row = depth_row(spec, maps)
    total = 0 if len(row) <= 1 else 2 * len(row) * int(np.prod(sizes))
    for axis, factor, unit_size in map_axes(spec, maps):
        columns = int(np.prod(sizes)) // sizes[axis] * unit_size
        total += factor.matmul_flops(columns)
        sizes[axis] = factor.shape[0] * unit_size
    return total
