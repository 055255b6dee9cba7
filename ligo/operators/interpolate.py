"""Interpolation: each layer repeated in place."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ligo.operators.base import DEPTH_OPERATORS, DepthOperator, Reference
from ligo.operators.maps import LayerMap, one_hot


@DEPTH_OPERATORS.register("interpolate")
class Interpolate(DepthOperator):
    """Repeat each layer in place: layer l copies small layer floor(l L / L')."""

    reference: ClassVar[Reference] = Reference(
        "Multi-level residual networks (Chang et al., ICLR 2018)", "1710.10348"
    )
    exact_when: ClassVar[str] = "where the depth does not grow"

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        return LayerMap(one_hot(np.arange(num_target) * num_small // num_target, num_small))
