"""Adam's moments of a training arm: onto the disk when a small run ends, into the engine before a grown one begins.

The step count comes along, so that what is kept is not corrected for a bias that it no longer has. Without
`train.rewarm_steps`, moments that start at zero are then not corrected either: with decays b1, b2 the first updates of such an element are
(1 - b1^k) / sqrt(1 - b2^k) of usual ones: 0.45 in the first step and 1.1 at most with 0.9 and 0.95, but up to
6.6 times as large with 0.9 and 0.999.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ligo.checkpoint.optimizer import MOMENTS, OptimizerState, write_optimizer_file
from ligo.families.base import Family
from ligo.families.stock import as_on_disk, as_running, expected_shapes, skeleton

if TYPE_CHECKING:
    from torch import Tensor

    from ligo.training.engine import Engine


def write_moments(
    file: Path, family: Family, step: int, moments: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    """Write what `Engine.moments` gave as an optimiser file.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    model, shapes = skeleton(family), expected_shapes(family)
    first, second = (as_on_disk(model, {n: pair[which] for n, pair in moments.items()}) for which in (0, 1))
    write_optimizer_file(file, step, shapes, ((name, first[name], second[name]) for name in shapes))


def load_moments(
    engine: Engine,
    family: Family,
    state: OptimizerState,
    windows: np.ndarray,
    new: Mapping[str, Tensor] | None = None,
) -> None:
    """Put moments into an engine that has not taken a step; every rank calls it.

    Args:
        family: of the model that the engine trains.
        windows: of the rank's first step.
        new: with `train.rewarm_steps`, the elements that are new of each tensor on disk, as bool in its shape.
    """
    model = skeleton(family)
    first, second = (
        as_running(model, {n: state.read(n, moment).to(torch.float32) for n in expected_shapes(family)})
        for moment in MOMENTS
    )
    moments = {name: (first[name], second[name]) for name in first}
    engine.load_moments(state.step, moments, windows, None if new is None else as_running(model, new))
