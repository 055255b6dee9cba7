"""Space maps and layer maps: what an operator decides, and how it is applied to a tensor.

    W'[l] = sum_j  depth[l, j] * ( expand_out @ W[j] @ reduce_in )

A *factor* is an n' x n matrix over the units of a space (n small units, n' target units). On an axis laid
out over several spaces the factors act as their Kronecker product, `heads kron query_dim`, so whole heads move
and rotary positions stay valid. The same functions run when an operator is learned (with autograd) and when
the grown checkpoint is written, so what was learned is what is written.

Shapes: n, n' units; c columns. Descriptions are NumPy, so that a plan needs no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ligo.families.spec import Concat, Layout, Norm, Product, Space, layout_key, layout_size

if TYPE_CHECKING:
    from torch import Tensor


class Factor(ABC):
    """An n' x n matrix over units."""

    label: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]: ...

    @abstractmethod
    def matrix(self) -> np.ndarray:
        """Dense float64 [n', n]."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """[n, c] -> [n', c]."""

    def project(self, x: Tensor) -> Tensor:
        """[n', c] -> [n', c]: the part of x that combinations of the matrix's columns make, E E^+ x."""
        basis = self._basis.to(x.device, x.dtype)
        return basis @ (basis.T @ x)

    @cached_property
    def _basis(self) -> Tensor:
        """Orthonormal columns that span those of the matrix: float64 [n', n]."""
        import torch

        return torch.linalg.qr(torch.from_numpy(self.matrix())).Q  # type: ignore[no-any-return]

    @abstractmethod
    def squared(self) -> Factor:
        """Every entry squared: how second moments grow."""

    def first_copies(self) -> np.ndarray:
        """Where each small unit is found first: [n] int64. The units elsewhere are new."""
        return np.arange(self.shape[1])

    def matmul_flops(self, columns: int) -> int:
        """FLOPs of `apply` on [n, columns]; copies and means cost none."""
        return 0

    def is_identity(self) -> bool:
        return False

    def describe(self) -> str:
        return self.label


@dataclass(frozen=True)
class Select(Factor):
    """Each target unit is one small unit times a number: row i is scale[i] * e_index[i]."""

    index: np.ndarray  # [n'] int64
    scale: np.ndarray  # [n'] float64
    num_small: int
    label: str = "copy"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.index), self.num_small

    def matrix(self) -> np.ndarray:
        dense = np.zeros(self.shape)
        dense[np.arange(len(self.index)), self.index] = self.scale
        return dense

    def apply(self, x: Tensor) -> Tensor:
        import torch

        grown = x.index_select(0, torch.as_tensor(self.index, device=x.device))
        if np.all(self.scale == 1.0):
            return grown
        return grown * torch.as_tensor(self.scale, device=x.device).to(x.dtype)[:, None]

    def project(self, x: Tensor) -> Tensor:
        import torch

        # columns do not overlap, so E^+ is a weighted mean over the copies of each unit
        index = torch.as_tensor(self.index, device=x.device)
        scale = torch.as_tensor(self.scale, device=x.device).to(x.dtype)[:, None]
        squares = torch.zeros(self.num_small, 1, dtype=x.dtype, device=x.device).index_add(0, index, scale**2)
        sums = torch.zeros(self.num_small, x.shape[1], dtype=x.dtype, device=x.device).index_add(
            0, index, scale * x
        )
        return scale * (sums / squares).index_select(0, index)

    def squared(self) -> Select:
        return replace(self, scale=self.scale**2)

    def first_copies(self) -> np.ndarray:
        here = np.flatnonzero(self.scale)
        return here[np.unique(self.index[here], return_index=True)[1]]

    def is_identity(self) -> bool:
        rows, columns = self.shape
        return rows == columns and bool(
            np.all(self.scale == 1.0) and np.array_equal(self.index, np.arange(columns))
        )

    def scaled(self, by: float | np.ndarray, label: str | None = None) -> Select:
        """The same selection with its rows multiplied by a number, or by one number each."""
        return replace(self, scale=self.scale * by, label=label or self.label)


@dataclass(frozen=True)
class CopiesThenMean(Factor):
    """The first rows copy small units, all others are the mean of all small units; everything times `scale`."""

    index: np.ndarray  # of the copies, int64
    num_small: int
    num_target: int
    scale: float = 1.0
    label: str = "copy, then mean"

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_target, self.num_small

    def matrix(self) -> np.ndarray:
        dense = np.full(self.shape, self.scale / self.num_small)
        dense[: len(self.index)] = 0.0
        dense[np.arange(len(self.index)), self.index] = self.scale
        return dense

    def apply(self, x: Tensor) -> Tensor:
        import torch

        copies = x.index_select(0, torch.as_tensor(self.index, device=x.device))
        means = x.mean(0, keepdim=True).expand(self.num_target - len(self.index), -1)
        grown = torch.cat([copies, means])
        return grown if self.scale == 1.0 else grown * self.scale

    def copies(self) -> Select:
        """The rows that copy; the others zero."""
        rest = (0, self.num_target - len(self.index))
        scale = np.pad(np.full(len(self.index), self.scale), rest)
        return Select(np.pad(self.index, rest), scale, self.num_small)

    def squared(self) -> Dense:
        return Dense(self.matrix() ** 2)


@dataclass(frozen=True)
class Dense(Factor):
    """Any matrix [n', n]: a NumPy array, or a torch tensor while it is being learned."""

    values: Any
    label: str = "dense"

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return int(rows), int(columns)

    def matrix(self) -> np.ndarray:
        values = self.values
        return np.asarray(
            values if isinstance(values, np.ndarray) else values.detach().cpu(), dtype=np.float64
        )

    def apply(self, x: Tensor) -> Tensor:
        import torch

        return torch.as_tensor(self.values, device=x.device).to(x.dtype) @ x

    def squared(self) -> Dense:
        return Dense(self.values**2)

    def matmul_flops(self, columns: int) -> int:
        return 2 * self.shape[0] * self.shape[1] * columns


def copies_per_unit(index: np.ndarray, num_small: int) -> np.ndarray:
    """How many target units copy each small unit: [n] int64."""
    return np.bincount(index, minlength=num_small)


def nothing(num_small: int, num_target: int) -> Select:
    """Every target unit is zero."""
    return Select(np.zeros(num_target, dtype=np.int64), np.zeros(num_target), num_small, label="zero")


def identity(size: int) -> Select:
    """Leave a space as it is."""
    return Select(np.arange(size), np.ones(size), size, label="as it is")


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


PickFactor = Callable[[str], Factor | None]
"""Space, or layout in words -> the factor to apply there; None to leave it as it is."""


def map_axis(
    tensor: Tensor, axis: int, layout: Layout, pick: PickFactor, spaces: Mapping[str, Space]
) -> Tensor:
    """Apply factors to one axis of a tensor.

    Args:
        layout: of the axis.
        spaces: sizes before the factors are applied.
    """
    moved = tensor.movedim(axis, 0)
    grown = _map_layout(moved.reshape(len(moved), -1), layout, pick, spaces)
    return grown.reshape(-1, *moved.shape[1:]).movedim(0, axis)


def project(factor: Factor | None) -> Factor | None:
    """The projection E E^+ onto a factor's span as a factor itself, for `map_axis`."""
    return None if factor is None else _Projection(factor)


def _map_layout(x: Tensor, layout: Layout, pick: PickFactor, spaces: Mapping[str, Space]) -> Tensor:
    """[n, c] -> [n', c]"""
    import torch

    whole = None if isinstance(layout, int) else pick(layout_key(layout))
    if whole is not None:
        return whole.apply(x)
    if isinstance(layout, int | str):
        return x
    sizes = [layout_size(part, spaces) for part in layout.parts]
    if isinstance(layout, Concat):
        parts = zip(x.split(sizes), layout.parts, strict=True)
        return torch.cat([_map_layout(rows, part, pick, spaces) for rows, part in parts])
    x = x.reshape(*sizes, -1)
    for axis, part in enumerate(layout.parts):
        moved = x.movedim(axis, 0)
        grown = _map_layout(moved.reshape(len(moved), -1), part, pick, spaces)
        x = grown.reshape(-1, *moved.shape[1:]).movedim(0, axis)
    return x.reshape(-1, x.shape[-1])


def layout_flops(layout: Layout, columns: int, pick: PickFactor, spaces: Mapping[str, Space]) -> int:
    """FLOPs of `map_axis` on an axis beside which the tensor has `columns` entries."""
    whole = None if isinstance(layout, int) else pick(layout_key(layout))
    if whole is not None:
        return whole.matmul_flops(columns)
    if isinstance(layout, int | str):
        return 0
    if isinstance(layout, Concat):
        return sum(layout_flops(part, columns, pick, spaces) for part in layout.parts)
    total, size = 0, layout_size(layout, spaces)
    for part in layout.parts:
        before = layout_size(part, spaces)
        total += layout_flops(part, columns * size // before, pick, spaces)
        factor = None if isinstance(part, int) else pick(layout_key(part))
        size = size // before * (factor.shape[0] if factor is not None else before)
    return total


def layout_keys(layout: Layout) -> Iterator[str]:
    """Every key under which a map for (a part of) this layout may be found."""
    if not isinstance(layout, int):
        yield layout_key(layout)
    if isinstance(layout, Product | Concat):
        for part in layout.parts:
            yield from layout_keys(part)


def layout_flags(
    layout: Layout, pick: Callable[[str], np.ndarray | None], spaces: Mapping[str, Space]
) -> np.ndarray:
    """[n] bool: places along an axis of which any space flags its unit; `pick` gives flags by space."""
    if isinstance(layout, Concat):
        return np.concatenate([layout_flags(part, pick, spaces) for part in layout.parts])
    if isinstance(layout, Product):
        flags = np.zeros(1, dtype=bool)
        for part in layout.parts:
            flags = (flags[:, None] | layout_flags(part, pick, spaces)[None, :]).reshape(-1)
        return flags
    flagged = None if isinstance(layout, int) else pick(layout)
    return np.zeros(layout_size(layout, spaces), dtype=bool) if flagged is None else flagged


@dataclass(frozen=True)
class _Projection(Factor):
    factor: Factor
    label: str = "projection"

    @property
    def shape(self) -> tuple[int, int]:
        return self.factor.shape[0], self.factor.shape[0]

    def matrix(self) -> np.ndarray:
        expand = self.factor.matrix()
        return expand @ np.linalg.pinv(expand)  # type: ignore[no-any-return]

    def apply(self, x: Tensor) -> Tensor:
        return self.factor.project(x)

    def squared(self) -> Factor:
        return Dense(self.matrix() ** 2)


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
        """One line: '0 1 2 | 0* 1* 2*', a star for identity blocks, several sources joined by '+'."""
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
