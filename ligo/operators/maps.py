"""Space maps and layer maps: what an operator decides.

    W'[l] = sum_j  depth[l, j] * ( expand_out @ W[j] @ reduce_in )

The same maps are applied when an operator is learned (with autograd) and when the grown checkpoint is written, so what
was learned is what is written. Descriptions are NumPy, so that a plan needs no torch. Shapes: n, n' units of a space
in the small model and in the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ligo.families.spec import Norm
from ligo.operators.factors import CopiesThenMean, Factor, Select, identity, nothing

EVERY_NORM = frozenset(Norm)


@dataclass(frozen=True, kw_only=True)
class SpaceMap:
    """What an operator decides for one space, and what it knows about it.

    `expand` [n', n] is applied by every tensor that writes the space; `reduce` holds the *transposed* reading
    map, n' x n like `expand`, and is applied by every tensor that reads it.
    """

    expand: Factor
    reduce: Factor
    normed: Factor | None = None
    """Where the stream lies after its norm, which is what readers see and shifts are written into; None: as
    before the norm."""
    gain: Factor | None = None
    """How norm scales are copied; None: they cannot be."""
    fold_gains: bool = False
    """True: the map mixes coordinates, so each scale is folded into its readers and becomes one."""
    head_scale: np.ndarray | None = None
    """[n']: what gain and shift before a tied head are multiplied by, because such a head reads with `expand`
    instead of `reduce`; None: no such number exists."""
    keeps: frozenset[Norm] = frozenset()
    """The norms whose statistics are the same after `expand` as before."""
    faithful: bool = False
    """Whether reading undoes writing: reduce^T normed = I."""
    fresh: np.ndarray | None = None
    """[n'] bool: units that every reader reads with zero, so that whatever is written there stays unseen."""
    tied: bool = False
    """Whether readers use the transposed writing map as it is, and gains the writing map too, as the original
    LiGO does; they are then learned as one."""
    split: tuple[Factor, Factor] | None = None
    """For writers inside layers, instead of `expand`: shares of the layer itself and of the one above it."""

    @property
    def grows(self) -> bool:
        rows, columns = self.expand.shape
        return rows != columns

    @property
    def new_units(self) -> np.ndarray:
        """[n'] bool: the units that are not the first copy of a small one."""
        new = np.ones(self.expand.shape[0], dtype=bool)
        new[self.seen.first_copies()] = False
        return new

    @property
    def seen(self) -> Factor:
        """What readers see: `normed`, or `expand`."""
        return self.normed or self.expand

    def is_identity(self) -> bool:
        """True where nothing is to be done: every unit stays as and where it is."""
        return self.split is None and self.expand.is_identity() and self.reduce.is_identity()


def unchanged(size: int) -> SpaceMap:
    """The map of a space that does not grow."""
    same = identity(size)
    return SpaceMap(
        expand=same, reduce=same, gain=same, head_scale=np.ones(size), keeps=EVERY_NORM, faithful=True
    )


@dataclass(frozen=True)
class LayerMap:
    """Which small layers make each target layer.

    `weights` is [L', L], one row per target layer. `identity_layers` start as identity blocks: the
    tensors that end a block there are zero. `learned` holds coefficients [L', L] per tensor kind, as
    torch tensors, once they have been learned; they then replace both.
    """

    weights: np.ndarray
    identity_layers: frozenset[int] = frozenset()
    learned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_small(self) -> int:
        return int(self.weights.shape[1])

    @property
    def once_in_order(self) -> bool:
        """Whether the layers that do something are the small ones, once each, in their order."""
        working = [row for layer, row in enumerate(self.weights) if layer not in self.identity_layers]
        return np.array_equal(np.asarray(working), np.eye(self.num_small))

    def main_source(self, layer: int) -> int:
        """The small layer with the largest share in a target layer."""
        return int(np.argmax(self.weights[layer]))

    @property
    def connection_rate(self) -> float:
        """Part of neighbouring target layers that were neighbours in the small model (G_stack, Du et al.,
        NeurIPS 2024, arXiv 2405.15319, appendix H)."""
        sources = np.argmax(self.weights, axis=1)
        return float(np.mean(np.diff(sources) == 1)) if len(sources) > 1 else 1.0

    def coefficients(self, kind: str, ends_block: bool) -> Any:
        """[L', L] for one kind of tensor."""
        if kind in self.learned:
            return self.learned[kind]
        if not (ends_block and self.identity_layers):
            return self.weights
        zeroed = self.weights.copy()
        zeroed[sorted(self.identity_layers)] = 0.0
        return zeroed

    def describe(self) -> str:
        """One line: '0 0* 1 1*', a star for identity blocks, several sources joined by '+'."""
        cells = []
        for layer, row in enumerate(self.weights):
            sources = "+".join(str(j) for j in np.flatnonzero(row))
            cells.append(sources + ("*" if layer in self.identity_layers else ""))
        return " ".join(cells)


def one_hot(sources: np.ndarray, num_small: int) -> np.ndarray:
    """Source layer per target layer -> depth weights [L', L]."""
    return np.eye(num_small)[sources]


@dataclass(frozen=True, kw_only=True)
class Fill:
    """Matrices become shrink * (what the maps give) + fresh random weights.

    `deviation` is in units of the target's fresh-init deviation; `only_new`: only where an axis of the tensor
    has a new unit, else everywhere.
    """

    deviation: float
    only_new: bool
    shrink: float = 1.0


@dataclass(frozen=True)
class GrowthMaps:
    """Everything an operator decided: one map per space, one for the layers.

    Keys of `spaces` are spaces ("ffn"), spaces of one target layer ("ffn.3"), or layouts in words
    ("heads*query_dim"), which go before those of their parts.
    """

    spaces: Mapping[str, SpaceMap]
    layers: LayerMap
    fill: Fill | None = None

    def space(self, key: str, layer: int | None = None) -> SpaceMap | None:
        """The map under a key, that of the layer itself first; None where nothing is to be done."""
        found = self.spaces.get(f"{key}.{layer}") if layer is not None else None
        return found or self.spaces.get(key)

    def dual(self) -> GrowthMaps:
        """The maps by which gradients grow: if W' = E W P^T computes the same, then G' = P G E^T.

        An axis that is written takes what its readers give back, an axis that is read takes what they see, and each
        copy of a norm's scale gets its share of the gradient. That is a function of the small gradient only where
        a scale is copied, not folded into its readers; elsewhere it gets zero. Inserted layers get zero too: only
        the tensors that end them have a gradient, and the small model knows nothing of it.

        Exact for exact maps without noise, but for what writes a normed space (the residual stream, normed heads)
        whose copies are read unevenly (`lemon`), not all read, or averaged: the gradient through the norm is then no
        function of the small one.
        """
        inserted = sorted(self.layers.identity_layers)

        def without_inserted(weights: Any) -> Any:
            kept = weights.copy() if isinstance(weights, np.ndarray) else weights.clone()
            kept[inserted] = 0.0
            return kept

        layers = replace(
            self.layers,
            weights=without_inserted(self.layers.weights),
            learned={kind: without_inserted(weights) for kind, weights in self.layers.learned.items()},
        )
        return GrowthMaps({key: _dual(space_map) for key, space_map in self.spaces.items()}, layers)

    def squared(self) -> GrowthMaps:
        """Every map with its entries squared: how second moments grow. Exact where the maps are selections, else as
        if the entries of a gradient were independent."""

        def square(factor: Factor | None) -> Factor | None:
            return None if factor is None else factor.squared()

        spaces = {
            key: replace(
                m,
                expand=m.expand.squared(),
                reduce=m.reduce.squared(),
                normed=square(m.normed),
                gain=square(m.gain),
                head_scale=None if m.head_scale is None else m.head_scale**2,
                split=None if m.split is None else (m.split[0].squared(), m.split[1].squared()),
            )
            for key, m in self.spaces.items()
        }
        learned = {kind: weights**2 for kind, weights in self.layers.learned.items()}
        return GrowthMaps(spaces, replace(self.layers, weights=self.layers.weights**2, learned=learned))


def _dual(space_map: SpaceMap) -> SpaceMap:
    rows, columns = space_map.expand.shape
    expand, seen, reduce, gain = space_map.expand, space_map.seen, space_map.reduce, space_map.gain
    copies = reduce.copies() if isinstance(reduce, CopiesThenMean) else reduce
    written, gained = reduce, nothing(columns, rows)
    if isinstance(seen, Select) and isinstance(copies, Select):
        share = copies.scaled(seen.scale, label="share")  # of the gradient, for each copy
        if isinstance(gain, Select):
            gained = _divided(share, gain.scale)
        if space_map.normed is not None and isinstance(expand, Select):
            written = _divided(share, expand.scale)
    own, above = space_map.split or (None, None)
    split = None
    if isinstance(written, Select) and isinstance(own, Select) and isinstance(above, Select):
        split = written.scaled(own.scale != 0), written.scaled(above.scale != 0)
    return SpaceMap(expand=written, reduce=seen, gain=gained, split=split)


def _divided(factor: Select, by: np.ndarray) -> Select:
    """Rows divided by numbers; those divided by zero are zero."""
    return replace(factor, scale=np.divide(factor.scale, by, out=np.zeros(len(by)), where=by != 0))
