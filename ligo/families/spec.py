"""The vocabulary in which a family describes an architecture: sizes, spaces, tensors.

A *space* is a named axis that several tensors share. An axis of a tensor is laid out over spaces: one of
them, a product (`heads x head size`), parts one after another (fused projections), or a fixed number. The
tensor either *writes* the axis (its output lands there), *reads* it, or is a *gain* or a *shift* of a norm
on it. Growth needs nothing else: a writer's axis is expanded, a reader's axis is reduced, a gain is copied
or folded into the readers behind it, a shift is written like the stream that it is added to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

RESIDUAL, HEADS, KV_HEADS, FFN, VOCAB, EXPERTS = "residual", "heads", "kv_heads", "ffn", "vocab", "experts"
QUERY_DIM, KEY_DIM, VALUE_DIM = "query_dim", "key_dim", "value_dim"
"""The coordinates of one head, as queries, keys and values have them: all three have the size of a head."""


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Sizes of one transformer. `head_dim` is coordinates per attention head."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int = 0
    """Tokens that the model knows; 0 where it reads images."""
    tied: bool
    """True where the output head is the embedding table itself."""
    num_experts: int = 0
    """Feed-forward blocks to choose from in each layer; 0 for a dense model."""
    experts_per_token: int = 0
    """How many of them each token takes; 0 for a dense model."""


class Norm(Enum):
    """Which statistics a norm takes of a space; growth is exact where the space map keeps them."""

    RMS = "RMSNorm"
    LAYER = "LayerNorm"


@dataclass(frozen=True, kw_only=True)
class Space:
    """A shared axis of `size` units.

    `norm` is the norm that the space goes through. `rotary` (head sizes) is how many leading coordinates
    are turned in pairs (i, i + rotary / 2). `score_scale` (head sizes) multiplies attention scores.
    """

    name: str
    size: int
    norm: Norm | None = None
    rotary: int = 0
    score_scale: float = 1.0


@dataclass(frozen=True)
class Product:
    """Every combination of its parts, the last part running fastest: heads x head size."""

    parts: tuple[Layout, ...]


@dataclass(frozen=True)
class Concat:
    """Its parts one after another: queries, keys, values."""

    parts: tuple[Layout, ...]


Layout = str | int | Product | Concat
"""How one axis is laid out: a space by name, a fixed number of places, or a combination of layouts."""


def product(*parts: Layout) -> Product:
    return Product(parts)


def concat(*parts: Layout) -> Concat:
    return Concat(parts)


def layout_size(layout: Layout, spaces: Mapping[str, Space]) -> int:
    """Places along an axis that is laid out so."""
    if isinstance(layout, int):
        return layout
    if isinstance(layout, str):
        return spaces[layout].size
    sizes = [layout_size(part, spaces) for part in layout.parts]
    return math.prod(sizes) if isinstance(layout, Product) else sum(sizes)


def layout_key(layout: Layout) -> str:
    """A layout in words: 'heads*query_dim'. A map under this key replaces those of the parts."""
    if isinstance(layout, Product | Concat):
        sign = "*" if isinstance(layout, Product) else "+"
        return sign.join(
            f"({layout_key(part)})" if isinstance(part, Concat) else layout_key(part) for part in layout.parts
        )
    return str(layout)


def layout_spaces(layout: Layout) -> Iterator[str]:
    """The spaces in a layout, in order."""
    if isinstance(layout, Product | Concat):
        for part in layout.parts:
            yield from layout_spaces(part)
    elif isinstance(layout, str):
        yield layout


class Role(Enum):
    """What a tensor does to one of its axes."""

    WRITE = "write"
    READ = "read"
    GAIN = "gain"
    SHIFT = "shift"


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor: how it is laid out and what the tensor does there."""

    layout: Layout
    role: Role


def _layout(parts: tuple[Layout, ...]) -> Layout:
    return parts[0] if len(parts) == 1 else Product(parts)


def writes(*parts: Layout) -> Axis:
    """Several parts are a product: writes(HEADS, QUERY_DIM)."""
    return Axis(_layout(parts), Role.WRITE)


def reads(*parts: Layout) -> Axis:
    return Axis(_layout(parts), Role.READ)


def gain(*parts: Layout) -> Axis:
    """The scale of a norm."""
    return Axis(_layout(parts), Role.GAIN)


def shift(*parts: Layout) -> Axis:
    """The bias of a LayerNorm: written into the normed stream."""
    return Axis(_layout(parts), Role.SHIFT)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor, by its name on disk."""

    name: str
    axes: tuple[Axis, ...]
    kind: str
    """The name without the layer ("self_attn.q_proj"): tensors of one kind share depth coefficients."""
    layer: int | None = None
    expert: int | None = None
    gain: str | None = None
    """Name of the norm scale that stands between the stream and this reader, or beside this shift."""
    ends_block: bool = False
    """True for the tensors that an identity block zeroes."""
    lookup: bool = False
    """True for tables that are indexed, not multiplied, and so cost no FLOPs."""
    before_head: bool = False
    """True for gain and shift of the norm right before the output head."""
    aliases: tuple[str, ...] = ()
    """Other names of the same parameter in the running model, not on disk: a tied head."""
    else_from: str | None = None
    """The small tensor that it grows from where the small model has none of its name: an untied head from
    the embedding, an expert from the dense block. None: it is drawn fresh there."""
    offset: float = 0.0
    """What the running model adds to a stored gain (Gemma: 1)."""
    multiplier: float = 1.0
    """What the running model multiplies what this tensor gives by (Gemma's embedding: sqrt(hidden_size))."""
    active_share: float = 1.0
    """Part of all tokens that it is multiplied with (experts: experts per token / experts)."""

    def shape(self, spaces: Mapping[str, Space]) -> tuple[int, ...]:
        return tuple(layout_size(axis.layout, spaces) for axis in self.axes)

    def num_elements(self, spaces: Mapping[str, Space]) -> int:
        return math.prod(self.shape(spaces))

    def spaces(self, role: Role) -> set[str]:
        """The spaces on the axes with this role."""
        return {name for axis in self.axes if axis.role is role for name in layout_spaces(axis.layout)}
