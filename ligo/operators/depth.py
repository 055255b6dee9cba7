"""Depth operators: which small layers make each target layer."""

from __future__ import annotations

import numpy as np

from ligo.operators.base import DEPTH_OPERATORS, Exactness, Reference
from ligo.operators.maps import LayerMap


def _one_hot(sources: np.ndarray, num_small: int) -> np.ndarray:
    """Source layer per target layer -> [L', L]."""
    return np.eye(num_small)[sources]


def _not_exact(num_small: int, num_target: int) -> Exactness:
    if num_small == num_target:
        return Exactness(True, "depth: unchanged")
    return Exactness(False, "depth: copied layers are applied twice")


@DEPTH_OPERATORS.register("zero_block")
class ZeroBlock:
    """Spread the small layers evenly and insert identity blocks: copies that end in zero."""

    reference = Reference("LLaMA Pro: progressive LLaMA with block expansion", "2401.02415")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        # target layer l belongs to small layer floor(l L / L'); the first of each run is the layer itself
        sources = np.arange(num_target) * num_small // num_target
        inserted = frozenset(layer for layer in range(1, num_target) if sources[layer] == sources[layer - 1])
        return LayerMap(_one_hot(sources, num_small), inserted)

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        inserted = num_target - num_small
        return Exactness(
            True, f"depth: {inserted} inserted layers add zero" if inserted else "depth: unchanged"
        )


@DEPTH_OPERATORS.register("stack")
class Stack:
    """Repeat the whole stack: layer l copies small layer l mod L."""

    reference = Reference("StackBERT (Gong et al., ICML 2019); Stacking your transformers", "2405.15319")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        return LayerMap(_one_hot(np.arange(num_target) % num_small, num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return _not_exact(num_small, num_target)


@DEPTH_OPERATORS.register("interpolate")
class Interpolate:
    """Repeat each layer in place: layer l copies small layer floor(l L / L')."""

    reference = Reference("Multi-level residual networks (Chang et al., ICLR 2018)", "1710.10348")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        return LayerMap(_one_hot(np.arange(num_target) * num_small // num_target, num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return _not_exact(num_small, num_target)
