"""Net2Net: new units copy old ones drawn at random, and readers divide by the number of copies.

As published (function-preserving initialisation, FPI), the residual stream is copied unscaled: its norm then
sees other statistics wherever units have unequally many copies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from ligo.families.spec import RESIDUAL
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes, WidthOperator
from ligo.operators.copying import duplicated
from ligo.operators.factors import copies_per_unit
from ligo.operators.maps import SpaceMap

_SEED = 1511_05641  # the draw is part of the operator: the same shapes give the same maps


@WIDTH_OPERATORS.register("net2net")
class Net2Net(WidthOperator):
    """Random copies; heads move by whole groups, in order, so that none is parted from its keys."""

    reference: ClassVar[Reference] = Reference(
        "Net2Net (Chen et al. 2015); bert2BERT's FPI (Chen et al., ACL 2022)", "1511.05641"
    )
    exact_when: ClassVar[str] = "where the residual stream does not grow"

    def residual(self, shapes: Shapes) -> SpaceMap:
        small, target = shapes.sizes(RESIDUAL)
        return unscaled_copies(random_index(small, target), small)

    def units(self, num_small: int, num_target: int) -> SpaceMap:
        return duplicated(random_index(num_small, num_target), num_small)


def unscaled_copies(index: np.ndarray, num_small: int) -> SpaceMap:
    """The residual stream copied as it is; a tied head divides by the number of copies."""
    return replace(duplicated(index, num_small), head_scale=1.0 / copies_per_unit(index, num_small)[index])


def random_index(num_small: int, num_target: int) -> np.ndarray:
    """The small units first, then copies drawn uniformly: [n'] int64."""
    drawn = np.random.default_rng([_SEED, num_small]).integers(0, num_small, num_target - num_small)
    return np.concatenate([np.arange(num_small), drawn])
