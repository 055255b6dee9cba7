"""Which coordinates of the grown model are new: everything but the first copy of each small unit.

An element of a tensor is new where any of its axes is. Tensors that come from no small tensor, from one that
another tensor already comes from, or that lie in an inserted layer, are new as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ligo.checkpoint.headers import DamagedFile
from ligo.checkpoint.load import open_tensors
from ligo.checkpoint.stream import write_tensor_file
from ligo.core.errors import CheckpointError
from ligo.families.spec import layout_size
from ligo.growth.plan import GrowthPlan, axis_factors
from ligo.operators.axes import map_axis
from ligo.operators.copying import padded
from ligo.operators.factors import nothing
from ligo.operators.maps import GrowthMaps, LayerMap, SpaceMap, one_hot

NewPlaces = Mapping[str, Sequence[np.ndarray]]
"""Name of a target tensor -> per axis, which places are new, bool [size]."""


def old_places(plan: GrowthPlan) -> GrowthMaps:
    """Maps that put each small unit where its first copy is, as it is, and zeros elsewhere."""
    layers = plan.maps.layers
    sources = np.array([layers.main_source(layer) for layer in range(len(layers.weights))])
    spaces = {key: _old(space_map) for key, space_map in plan.maps.spaces.items()}
    return GrowthMaps(spaces, LayerMap(one_hot(sources, layers.num_small)))


def _old(space_map: SpaceMap) -> SpaceMap:
    num_target, num_small = space_map.expand.shape
    mixed = space_map.fold_gains  # where coordinates are mixed, none of them is an old one
    kept = nothing(num_small, num_target) if mixed else padded(space_map.seen.first_copies(), num_target)
    return SpaceMap(expand=kept, reduce=kept, gain=kept)


def new_tensors(plan: GrowthPlan) -> set[str]:
    """Target tensors that are new as a whole."""
    layers, new = plan.maps.layers, set()
    taken: set[str] = set()
    for job in plan.jobs:
        layer = job.spec.layer
        origin = None
        if job.source is not None and layer not in layers.identity_layers:
            origin = job.source_name(0 if layer is None else layers.main_source(layer))
        if origin is None or origin in taken:
            new.add(job.spec.name)
        else:
            taken.add(origin)
    return new


def new_coordinates(plan: GrowthPlan) -> dict[str, list[np.ndarray]]:
    """Per axis of each target tensor, which places are new: bool [size]."""
    kept, whole = old_places(plan), new_tensors(plan)
    spaces = {**plan.target.spaces, **plan.small.spaces}
    places: dict[str, list[np.ndarray]] = {}
    for job in plan.jobs:
        spec, axes = job.spec, []
        for axis, at in enumerate(spec.axes):
            if spec.name in whole:
                axes.append(np.ones(job.shape[axis], dtype=bool))
                continue
            ones = torch.ones(layout_size(at.layout, spaces))
            axes.append((map_axis(ones, 0, at.layout, axis_factors(spec, axis, kept), spaces) == 0).numpy())
        places[spec.name] = axes
    return places


def write_new_coordinates(path: Path, plan: GrowthPlan) -> None:
    """Write them as uint8 vectors `<name>.axis<number>` of one safetensors file.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    flags = {
        f"{name}.axis{axis}": places
        for name, axes in new_coordinates(plan).items()
        for axis, places in enumerate(axes)
    }
    entries = {name: ("U8", places.shape) for name, places in flags.items()}
    tensors = (torch.from_numpy(places.astype(np.uint8)) for places in flags.values())
    write_tensor_file(path, entries, tensors, {"format": "pt"})


def read_new_coordinates(path: Path) -> dict[str, list[np.ndarray]]:
    """What `write_new_coordinates` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with open_tensors(path, "numpy") as file:
            flags = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except DamagedFile as error:
        raise CheckpointError(
            f"cannot read which coordinates are new from {path}: {error}.\n  Try: stages=[write,...] again"
        ) from error
    found: dict[str, dict[int, np.ndarray]] = {}
    for key, values in flags.items():
        name, _, axis = key.rpartition(".axis")
        found.setdefault(name, {})[int(axis)] = values.astype(bool)
    return {name: [axes[axis] for axis in sorted(axes)] for name, axes in found.items()}


def is_new(axes: Sequence[np.ndarray]) -> Tensor:
    """The elements of one tensor that are new: bool, in its shape."""
    new = torch.zeros([len(places) for places in axes], dtype=torch.bool)
    for axis, places in enumerate(axes):
        shape = [-1 if other == axis else 1 for other in range(len(axes))]
        new |= torch.from_numpy(places).reshape(shape)
    return new
