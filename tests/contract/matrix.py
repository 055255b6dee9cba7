"""The matrix of operators x families x shapes: what is declared of each pair, and what is measured.

`declared` needs no weights; `measured` grows a tiny model in float64. The tests hold one to the other, and
`make bench-algebra` writes the page of the matrix from the same functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ligo.core.errors import PlanError
from ligo.families.base import family_of
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.operators.base import DEPTH_OPERATORS, WIDTH_OPERATORS
from tests.families.tiny import RMS_DECODERS
from tests.families.tiny_others import OTHERS
from tests.growing import EXACT_FLOAT64, Grown, grow_model, operator

FAMILIES: dict[str, dict[str, Any]] = {**RMS_DECODERS, **OTHERS}
WIDTHS, DEPTHS = WIDTH_OPERATORS.names(), DEPTH_OPERATORS.names()
CLEARLY_OTHER = 1e-7  # far above rounding in float64: a growth that is declared approximate must differ
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


@dataclass(frozen=True)
class Comparison:
    """What was declared of one cell, and the largest difference of logits that was measured; None if refused."""

    outcome: Outcome
    difference: float | None

    @property
    def agrees(self) -> bool:
        if self.difference is None:
            return "\n  Try: " in self.outcome.reasons[0]  # a refusal says what to type instead
        if self.outcome.verdict == "exact":
            return self.difference <= EXACT_FLOAT64
        return self.difference > CLEARLY_OTHER


def compare(family: str, ratio: str, width: str, depth: str) -> Comparison:
    """Hold what is declared of a cell to what is measured in float64."""
    outcome = declared(family, ratio, width, depth)
    if outcome.verdict == "refused":
        return Comparison(outcome, None)
    return Comparison(outcome, measured(family, ratio, width, depth).difference())


Case = tuple[str, str, str, str]
"""family, ratio, width, depth"""


def cases(families: Iterable[str] = tuple(FAMILIES)) -> list[Case]:
    """Every width operator at every ratio, every depth operator at one."""
    families = list(families)
    widths = [(f, r, w, "zero_block") for f in families for r in RATIOS for w in WIDTHS]
    depths = [
        (f, "depth only", "scaled_duplication", d) for f in families for d in DEPTHS if d != "zero_block"
    ]
    return widths + depths
