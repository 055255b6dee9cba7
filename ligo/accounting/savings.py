"""The savings ledger: what growing cost, against what training from scratch cost, to the same loss.

    saving = 1 - (C_small * charged + C_operator + C_grown(V*)) / C_scratch(V*)

V* is the scratch run's final validation loss on its own fully decayed schedule. C_grown(V*) is counted
up to the first evaluation from which on the grown run's validation loss stays at or below V*; if there is
none the saving is None, never an extrapolation. All losses are over one fixed validation set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """One evaluation of one arm; tokens, FLOPs and seconds are cumulative within the arm."""

    tokens: int
    flops: float
    wall_s: float
    loss: float


@dataclass(frozen=True)
class Saving:
    """One row of the savings table, in FLOPs; `grown_flops` and `saving` are None where V* was not reached."""

    convention: str
    small_flops: float | None
    operator_flops: float
    grown_flops: float | None
    scratch_flops: float
    saving: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def curve(records: Sequence[dict[str, Any]], arm: str) -> list[Point]:
    """The evaluations of one arm, in order, from the records of metrics.jsonl."""
    return [
        Point(r["tokens"], r["flops"], r["wall_s"], r["eval/loss"])
        for r in records
        if r["arm"] == arm and "eval/loss" in r
    ]


def first_staying_below(points: Sequence[Point], target_loss: float) -> Point | None:
    """The first evaluation from which on every loss is at or below the target; None if there is none."""
    reached = None
    for point in reversed(points):
        if point.loss > target_loss:
            break
        reached = point
    return reached


def savings(
    grown: Sequence[Point], scratch: Sequence[Point], *, operator_flops: float, small_flops: float | None
) -> list[Saving]:
    """Both conventions: small model sunk (it was there anyway) and charged.

    Args:
        small_flops: training FLOPs of the small model; None where nobody recorded them, and then the
            charged saving is None too.
    """
    total = scratch[-1].flops
    reached = first_staying_below(grown, scratch[-1].loss)
    grown_flops = None if reached is None else reached.flops

    def row(convention: str, charged: float | None) -> Saving:
        known = grown_flops is not None and charged is not None
        saving = 1 - (charged + operator_flops + grown_flops) / total if known else None  # type: ignore[operator]
        return Saving(convention, charged, operator_flops, grown_flops, total, saving)

    return [row("small model sunk", 0.0), row("small model charged", small_flops)]


def speedup_as_saving(speedup: float) -> float:
    """A published speed-up s (C_scratch / C_grown - 1) as a saving, 1 - 1 / (1 + s)."""
    return 1 - 1 / (1 + speedup)


def loss_at(
    points: Sequence[Point], *, tokens: int | None = None, flops: float | None = None
) -> float | None:
    """The last measured loss within a budget of tokens or FLOPs; None if there was none yet."""
    within = [
        p for p in points
        if (tokens is None or p.tokens <= tokens) and (flops is None or p.flops <= flops)
    ]  # fmt: skip
    return within[-1].loss if within else None
