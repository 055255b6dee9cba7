"""Zero expansion: the old units as they are, new ones that start as zero.

Residual stream: R = sqrt(D'/D) [I; 0], so that RMSNorm sees the same mean square with eps unchanged
(unscaled padding needs another eps). New heads and FFN units are read with zero; what they compute is unseen at
first, and random, because units that both compute and are read as zero would stay so for ever. New coordinates of
the residual stream are brought to life by null-space noise in what reads them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from ligo.core.errors import PlanError
from ligo.families.spec import HEADS, KV_HEADS, RESIDUAL, Norm
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes, WidthOperator
from ligo.operators.copying import cyclic_index, padded
from ligo.operators.factors import Select
from ligo.operators.maps import SpaceMap


@WIDTH_OPERATORS.register("pad")
class Pad(WidthOperator):
    """Zeros beside everything."""

    reference: ClassVar[Reference] = Reference(
        "Composable function-preserving expansions (Gesmundo & Maile 2023)", "2308.06103"
    )
    exact_when: ClassVar[str] = (
        "always under RMSNorm, but for new heads under one norm over all of them (OLMo 2); under LayerNorm where the "
        "residual stream does not grow"
    )

    def residual(self, shapes: Shapes) -> SpaceMap:
        small, target = shapes.sizes(RESIDUAL)
        return padded_residual(small, target, scale=float(np.sqrt(target / small)))

    def units(self, num_small: int, num_target: int) -> SpaceMap:
        return padded_units(np.arange(num_small), num_target)

    def head_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        heads, kv_heads = shapes.heads
        group, target_group = heads[0] // kv_heads[0], heads[1] // kv_heads[1]
        if target_group < group:
            name = WIDTH_OPERATORS.name_of(type(self))
            raise PlanError(
                f"operator.width={name} keeps the {group} query heads of each key/value head, and the target has "
                f"places for {target_group}.\n  Try: target.num_attention_heads={group * kv_heads[1]}"
            )
        kv_head, within = np.divmod(np.arange(heads[0]), group)
        maps = {HEADS: padded_units(kv_head * target_group + within, heads[1])}
        if KV_HEADS in shapes.small.spaces:
            maps[KV_HEADS] = padded_units(np.arange(kv_heads[0]), kv_heads[1])
        return maps


def padded_residual(num_small: int, num_target: int, *, scale: float) -> SpaceMap:
    """R = scale [I; 0]; of gains, new coordinates get those of old ones, any will do."""
    places = np.arange(num_small)
    return SpaceMap(
        expand=padded(places, num_target, scale),
        reduce=padded(places, num_target, 1 / scale),
        gain=Select(cyclic_index(num_small, num_target), np.ones(num_target), num_small),
        head_scale=np.full(num_target, scale**-2),
        keeps=frozenset({Norm.RMS}) if np.isclose(scale**2, num_target / num_small) else frozenset(),
        faithful=True,
    )


def padded_units(places: np.ndarray, num_target: int) -> SpaceMap:
    """Old units at their places; the others are written at random and read with zero."""
    select = padded(places, num_target)
    gain = replace(select, scale=np.ones(num_target))
    return SpaceMap(expand=select, reduce=select, gain=gain, faithful=True, fresh=select.scale == 0)
