"""What every operator answers: its maps, where it comes from, and when it is exact.

A width operator decides a map for each space. Most differ from each other only in the residual stream and in
the units of the FFN, so `WidthOperator` has an answer for every space, and a file says what is its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ligo.core.registry import Registry
from ligo.families.base import Family
from ligo.families.spec import (
    EXPERTS,
    HEADS,
    KEY_DIM,
    KV_HEADS,
    QUERY_DIM,
    RESIDUAL,
    VALUE_DIM,
    VOCAB,
    Norm,
)
from ligo.operators.copying import (
    cyclic_index,
    duplicated,
    grouped_head_index,
    head_dim_maps,
    heads_under_one_norm,
    vocabulary_map,
)
from ligo.operators.maps import Fill, LayerMap, SpaceMap, unchanged


@dataclass(frozen=True)
class Reference:
    """Where an operator was published."""

    title: str
    arxiv: str = ""

    def __str__(self) -> str:
        return f"{self.title} (arXiv {self.arxiv})" if self.arxiv else self.title


@dataclass(frozen=True)
class Shapes:
    """The two models that a growth stands between."""

    small: Family
    target: Family

    def sizes(self, space: str) -> tuple[int, int]:
        """(small, target) units of a space that both models have."""
        return self.small.spaces[space].size, self.target.spaces[space].size

    def shared(self) -> list[str]:
        """The spaces that both models have; experts are new where a dense model becomes a mixture."""
        return [name for name in self.target.spaces if name in self.small.spaces]

    def grows(self, space: str) -> bool:
        small, target = self.sizes(space)
        return small != target

    @property
    def heads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(small, target) query heads, and key/value heads; without groups, one for each query head."""
        return self.sizes(HEADS), self.sizes(KV_HEADS if KV_HEADS in self.small.spaces else HEADS)


class WidthOperator(ABC):
    """Decides a map for every space."""

    reference: ClassVar[Reference]
    exact_when: ClassVar[str]
    """In words; what holds for one pair of shapes follows from the maps (`operators.exactness`)."""
    mixes_coordinates: ClassVar[bool] = False
    """True where the residual map is no selection: gains must be folded, and a tied head untied."""

    @abstractmethod
    def residual(self, shapes: Shapes) -> SpaceMap:
        """The map of the residual stream."""

    def units(self, num_small: int, num_target: int) -> SpaceMap:
        """The map of units behind an elementwise function: the FFN."""
        return duplicated(cyclic_index(num_small, num_target), num_small)

    def head_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        """The maps of heads and of key/value heads, which must fit each other."""
        heads, kv_heads = shapes.heads
        maps = {HEADS: duplicated(grouped_head_index(heads, kv_heads), heads[0])}
        if KV_HEADS in shapes.small.spaces:
            maps[KV_HEADS] = duplicated(cyclic_index(*kv_heads), kv_heads[0])
        return maps

    def fill(self, shapes: Shapes) -> Fill | None:
        """Fresh random weights on top, where the operator has them."""
        return None

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        """A map for each space that both models have.

        Raises:
            PlanError: these shapes cannot be grown this way.
        """
        maps: dict[str, SpaceMap] = {}
        for name in shapes.shared():
            small, target = shapes.sizes(name)
            if name in (HEADS, KV_HEADS):
                maps |= {} if name in maps else self.head_maps(shapes)
            elif small == target:
                maps[name] = unchanged(small)
            elif name == RESIDUAL:
                maps[name] = self.residual(shapes)
            elif name in (QUERY_DIM, KEY_DIM, VALUE_DIM):
                maps[name] = head_dim_maps(shapes.small.spaces[name], shapes.target.spaces[name])
            elif name == VOCAB:
                maps[name] = vocabulary_map(small, target)
            elif name == EXPERTS:
                maps[name] = duplicated(cyclic_index(small, target), small)
            else:
                maps[name] = self.units(small, target)
        if HEADS in maps and KV_HEADS in maps and shapes.small.spaces[HEADS].norm is Norm.RMS:
            maps[HEADS], maps[KV_HEADS] = heads_under_one_norm(maps[HEADS], maps[KV_HEADS])
        return maps


class DepthOperator(ABC):
    """Decides which small layers make each target layer."""

    reference: ClassVar[Reference]
    exact_when: ClassVar[str]

    @abstractmethod
    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        """
        Raises:
            PlanError: these depths cannot be had this way.
        """


WIDTH_OPERATORS: Registry[type[WidthOperator]] = Registry(
    "width operator", "ligo.operators", "operator.width"
)
DEPTH_OPERATORS: Registry[type[DepthOperator]] = Registry(
    "depth operator", "ligo.operators", "operator.depth"
)
