"""LEMON: copies that are read with uneven weights, so that they differ from the first step on.

Units are copied in order, and of the n copies of a unit, copy c is read with weight (c + 1) / (1 + 2 + .. + n):
they sum to one and no two are equal, so gradients of copies differ without noise. Under LayerNorm the remainder
is filled by average expansion, under RMSNorm by zeros; either is scaled so that eps needs no change (the
paper scales gains and eps instead). Coordinates of zeros that are also read with zero have no gradient: under
RMSNorm at uneven widths null-space noise is needed to bring them to life.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from ligo.families.spec import HEADS, KV_HEADS, RESIDUAL, Norm, Space
from ligo.operators.base import WIDTH_OPERATORS, Reference, Shapes, WidthOperator
from ligo.operators.copying import cyclic_index, duplicated, residual_copies
from ligo.operators.factors import Select, copies_per_unit
from ligo.operators.maps import EVERY_NORM, SpaceMap


@WIDTH_OPERATORS.register("lemon")
class Lemon(WidthOperator):
    """Uneven splits; average expansion for LayerNorm, zero expansion for RMSNorm."""

    reference: ClassVar[Reference] = Reference(
        "LEMON: lossless model expansion (Wang et al., ICLR 2024)", "2310.07999"
    )
    exact_when: ClassVar[str] = (
        "at every ratio (experts: whole ones); after-norm models (BERT): at whole ratios"
    )

    def residual(self, shapes: Shapes) -> SpaceMap:
        space, num_target = shapes.small.spaces[RESIDUAL], shapes.target.dims.hidden_size
        whole = (
            residual_copies(space, num_target)
            if space.norm is Norm.LAYER
            else zero_expanded(space, num_target)
        )
        copied = whole.seen
        assert isinstance(copied, Select)
        return replace(whole, reduce=_uneven_reading(copied))

    def units(self, num_small: int, num_target: int) -> SpaceMap:
        index = cyclic_index(num_small, num_target)
        return duplicated(index, num_small, uneven_shares(index, num_small))

    def head_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        maps = super().head_maps(shapes)
        expand = maps[HEADS].expand
        if maps[HEADS].grows and isinstance(expand, Select):
            index, small = expand.index, expand.num_small
            shares = uneven_shares(index, small)
            maps[HEADS] = duplicated(index, small, shares)
            if KV_HEADS in maps:
                # copies of a key/value head matter as much as the query heads that they serve
                kv_small, kv_target = shapes.heads[1]
                kv_shares = shares.reshape(kv_target, -1).sum(1) * kv_small / small
                maps[KV_HEADS] = duplicated(cyclic_index(kv_small, kv_target), kv_small, kv_shares)
        return maps


def uneven_shares(index: np.ndarray, num_small: int) -> np.ndarray:
    """[n'] reading weights: in proportion 1, 2, 3 .. over the copies of a unit, summing to one."""
    counts = copies_per_unit(index, num_small)[index]
    order, seen = np.empty(len(index)), np.zeros(num_small)
    for place, unit in enumerate(index):
        seen[unit] += 1
        order[place] = seen[unit]
    return order / (counts * (counts + 1) / 2)


def zero_expanded(space: Space, num_target: int) -> SpaceMap:
    """As many whole copies as fit, then zeros, scaled so that the mean square stays."""
    num_copies = num_target - num_target % space.size
    is_copy = np.arange(num_target) < num_copies
    scale = np.sqrt(num_target / num_copies)
    copied = Select(cyclic_index(space.size, num_target), np.ones(num_target), space.size)
    return SpaceMap(
        expand=copied.scaled(is_copy * scale, label="copy" if is_copy.all() else "copy, then zero"),
        reduce=copied.scaled(is_copy / (scale * num_copies / space.size)),
        gain=copied,
        head_scale=np.full(num_target, space.size / num_target),
        keeps=EVERY_NORM if is_copy.all() else frozenset({Norm.RMS}),
        faithful=True,
    )


def _uneven_reading(seen: Select) -> Select:
    """Reading weights over the copies that are not zero, uneven, so that reduce^T seen = I."""
    here = np.flatnonzero(seen.scale)
    shares = np.zeros(len(seen.index))
    shares[here] = uneven_shares(seen.index[here], seen.num_small) / seen.scale[here]
    return Select(seen.index, shares, seen.num_small, label="uneven copy")
