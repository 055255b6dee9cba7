"""What every operator answers: its maps, where it comes from, and when it is exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ligo.core.registry import Registry
from ligo.families.spec import Dims, Space
from ligo.operators.maps import LayerMap, SpaceMap


@dataclass(frozen=True)
class Reference:
    """Where an operator was published."""

    title: str
    arxiv: str = ""

    def __str__(self) -> str:
        return f"{self.title} (arXiv {self.arxiv})" if self.arxiv else self.title


@dataclass(frozen=True)
class Exactness:
    """Whether the grown model computes the small one's function, and why or why not."""

    exact: bool
    reason: str

    def __and__(self, other: Exactness) -> Exactness:
        if self.exact and other.exact:
            return Exactness(True, "; ".join(r for r in (self.reason, other.reason) if r))
        return Exactness(False, "; ".join(e.reason for e in (self, other) if not e.exact))


def copies_are_not_exact(num_small: int, num_target: int) -> Exactness:
    """The verdict on depth operators that apply copied layers again."""
    if num_small == num_target:
        return Exactness(True, "depth: unchanged")
    return Exactness(False, "depth: copied layers are applied twice")


@dataclass(frozen=True)
class Shapes:
    """The two models that a growth stands between."""

    small: Dims
    target: Dims
    small_spaces: Mapping[str, Space]
    target_spaces: Mapping[str, Space]

    def units(self) -> dict[str, tuple[int, int]]:
        """(small, target) number of units by space."""
        return {
            name: (s.num_units, self.target_spaces[name].num_units) for name, s in self.small_spaces.items()
        }


class WidthOperator(Protocol):
    """Decides a map for every space."""

    reference: Reference

    def space_maps(self, shapes: Shapes) -> dict[str, SpaceMap]:
        """Raises PlanError where these shapes cannot be grown this way."""
        ...

    def exactness(self, shapes: Shapes) -> Exactness: ...


class DepthOperator(Protocol):
    """Decides which small layers make each target layer."""

    reference: Reference

    def layer_map(self, num_small: int, num_target: int) -> LayerMap: ...

    def exactness(self, num_small: int, num_target: int) -> Exactness: ...


WIDTH_OPERATORS: Registry[type[WidthOperator]] = Registry("width operator", "ligo.operators")
DEPTH_OPERATORS: Registry[type[DepthOperator]] = Registry("depth operator", "ligo.operators")
