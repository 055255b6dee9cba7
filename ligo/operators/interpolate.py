"""Interpolation: each layer repeated in place."""

from __future__ import annotations

import numpy as np

from ligo.operators.base import DEPTH_OPERATORS, Exactness, Reference, copies_are_not_exact
from ligo.operators.maps import LayerMap, one_hot


@DEPTH_OPERATORS.register("interpolate")
class Interpolate:
    """Repeat each layer in place: layer l copies small layer floor(l L / L')."""

    reference = Reference("Multi-level residual networks (Chang et al., ICLR 2018)", "1710.10348")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        return LayerMap(one_hot(np.arange(num_target) * num_small // num_target, num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return copies_are_not_exact(num_small, num_target)
