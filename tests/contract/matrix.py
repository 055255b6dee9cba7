"""The matrix of operators x families x shapes: what is declared of each pair, and what is measured.

`declared` needs no weights; `measured` grows a tiny model in float64. The tests hold one to the other, and
`make bench-algebra` writes the page of the matrix from the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from ligo.core.errors import PlanError
from ligo.families.base import family_of
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.operators.base import DEPTH_OPERATORS, WIDTH_OPERATORS
from tests.families.tiny import RMS_DECODERS
from tests.families.tiny_others import OTHERS
from tests.growing import Grown, grow_model, operator

FAMILIES: dict[str, dict[str, Any]] = {**RMS_DECODERS, **OTHERS}
WIDTHS, DEPTHS = WIDTH_OPERATORS.names(), DEPTH_OPERATORS.names()
RATIOS = ("2x", "2x width", "uneven width", "depth only", "heads only")


@dataclass(frozen=True)
class Outcome:
    """`verdict` is exact, approximate or refused; `reasons` in words."""

    verdict: str
    reasons: tuple[str, ...]


def wanted(family: str, ratio: str) -> dict[str, int]:
    """Target sizes of a ratio; uneven is 1.25 times wide, 1.5 times with grouped heads. What a family cannot choose
    follows from the rest."""
    model = family_of(FAMILIES[family])
    grouped = model.kv_heads_key is not None
    twice = {"hidden_size": 64, "num_heads": 8, "ffn_size": 96, **({"num_kv_heads": 4} if grouped else {})}
    if ratio == "2x":
        return {**twice, "num_layers": 4}
    if ratio == "2x width":
        return twice
    if ratio == "uneven width":
        if grouped:  # whole groups of two query heads
            return {"hidden_size": 48, "num_heads": 6, "num_kv_heads": 3, "ffn_size": 60}
        return {"hidden_size": 40, "num_heads": 5, "ffn_size": 60}
    if ratio == "depth only":
        return {"num_layers": 3}
    return {"num_heads": 8, "num_kv_heads": 4} if grouped else {"num_heads": 8}


@cache
def plan(family: str, ratio: str, width: str, depth: str) -> GrowthPlan | PlanError:
    """The plan, or its refusal."""
    try:
        return plan_growth(FAMILIES[family], wanted(family, ratio), operator(width, depth))
    except PlanError as refusal:
        return refusal


def declared(family: str, ratio: str, width: str, depth: str = "zero_block") -> Outcome:
    found = plan(family, ratio, width, depth)
    if isinstance(found, PlanError):
        return Outcome("refused", (str(found),))
    return Outcome("exact" if found.exactness.exact else "approximate", found.exactness.reasons)


def measured(family: str, ratio: str, width: str, depth: str = "zero_block", **options: Any) -> Grown:
    """A grown tiny model, noise included."""
    found = plan(family, ratio, width, depth)
    assert isinstance(found, GrowthPlan)
    return grow_model(found, **options)


def cases() -> list[tuple[str, str, str, str]]:
    """(family, ratio, width, depth): every width operator at every ratio, every depth operator at one."""
    widths = [(f, r, w, "zero_block") for f in FAMILIES for r in RATIOS for w in WIDTHS]
    depths = [
        (f, "depth only", "scaled_duplication", d) for f in FAMILIES for d in DEPTHS if d != "zero_block"
    ]
    return widths + depths
