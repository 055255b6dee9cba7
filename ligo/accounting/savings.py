"""The savings ledger: what growing cost, against what training from scratch cost, to the same loss.

    saving = 1 - (C_small * charged + C_operator + C_grown(V*)) / C_scratch(V*)

V* is the scratch run's final validation loss on its own fully decayed schedule. C_grown(V*) is counted
up to the first evaluation from which on the grown run's validation loss stays at or below V*; if there is
none the saving is None, never an extrapolation. All losses are over one fixed validation set.

Where the grown model is at the target loss before its first step, C_grown is nothing. With the small model sunk the saving would
then be what the small model had learned already, 100 % or nearly, whatever growing is worth: it is None, `met_at_start`
says why, and only the charged saving is a figure.

The same is counted in tokens and in wall time, and to the losses that the scratch run had earlier on its way,
where savings are larger: one figure at one loss says little.
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
    met_at_start: bool = False
    """The grown model was at the target loss before its first step: there is no saving with the small model sunk."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


MEASURES = ("flops", "tokens", "wall_s")
SUNK, CHARGED = "small model sunk", "small model charged"
TARGET_SHARES = (0.5, 0.75, 0.9, 1.0)
"""Parts of the scratch run's FLOPs at which its loss becomes a target; the last one's is V*."""


@dataclass(frozen=True)
class Spent:
    """What something took, in each measure; None where nobody recorded it."""

    flops: float | None
    tokens: float | None
    wall_s: float | None


FREE = Spent(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Target:
    """A loss that an arm had after a part of its FLOPs."""

    loss: float
    of: str
    share: float


@dataclass(frozen=True)
class Parts:
    """A saving in one measure and what it is made of; None: not recorded, the loss not reached, or `met_at_start`."""

    small: float | None
    operator: float | None
    grown: float | None
    baseline: float | None
    saving: float | None


@dataclass(frozen=True)
class TargetSaving:
    """One row of the ledger: a target loss, a convention, and the saving in each measure."""

    target: Target
    convention: str
    reached: bool
    met_at_start: bool
    """The grown arm was, before its first step: with the small model sunk there is no saving."""
    measures: dict[str, Parts]

    def as_json(self) -> dict[str, Any]:
        measures = {name: asdict(parts) for name, parts in self.measures.items()}
        row = {"convention": self.convention, "reached": self.reached, "met_at_start": self.met_at_start}
        return {**asdict(self.target), **row, **measures}


def curve(records: Sequence[dict[str, Any]], arm: str) -> list[Point]:
    """The evaluations of one arm, in order, from the records of metrics.jsonl."""
    return [
        Point(r["tokens"], r["flops"], r["wall_s"], r["eval/loss"])
        for r in records
        if r["arm"] == arm and "eval/loss" in r
    ]


def met_at_start(reached: Point | None) -> bool:
    """Whether a target loss was reached before the first step."""
    return reached is not None and bool(reached.tokens == 0)


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
    grown_flops, at_start = None if reached is None else reached.flops, met_at_start(reached)

    def row(convention: str, charged: float | None) -> Saving:
        known = grown_flops is not None and charged is not None and not (at_start and convention == SUNK)
        saving = 1 - (charged + operator_flops + grown_flops) / total if known else None  # type: ignore[operator]
        return Saving(convention, charged, operator_flops, grown_flops, total, saving, at_start)

    return [row(SUNK, 0.0), row(CHARGED, small_flops)]


def targets(points: Sequence[Point], of: str, shares: Sequence[float] = TARGET_SHARES) -> list[Target]:
    """The losses that an arm had at parts of its FLOPs, as far as it had been evaluated on its way there."""
    found = []
    for share in shares:
        within = [point for point in points if 0 < point.flops <= share * points[-1].flops]
        if within:
            found.append(Target(within[-1].loss, of, share))
    return found


def savings_by_target(
    grown: Sequence[Point],
    baseline: Sequence[Point],
    aims: Sequence[Target],
    *,
    operator: Spent,
    small: Spent,
) -> list[TargetSaving]:
    """Both conventions at each target loss, in FLOPs, tokens and wall time.

    Each arm is counted up to the first evaluation from which on it stays at or below the target; the baseline is
    counted to its end where its final loss is the target.

    Args:
        aims: losses of the baseline.
    """
    rows = []
    for target in aims:
        ours = first_staying_below(grown, target.loss)
        theirs = baseline[-1] if target.share == 1 else first_staying_below(baseline, target.loss)
        at_start = met_at_start(ours)
        for convention, charged in ((SUNK, FREE), (CHARGED, small)):
            spent, counts = (charged, operator, ours, theirs), not (at_start and convention == SUNK)
            measures = {
                name: _parts(*(_measure(part, name) for part in spent), counts=counts) for name in MEASURES
            }
            rows.append(TargetSaving(target, convention, ours is not None, at_start, measures))
    return rows


def _parts(
    small: float | None, operator: float | None, grown: float | None, baseline: float | None, *, counts: bool
) -> Parts:
    saving = None
    if counts and small is not None and operator is not None and grown is not None and baseline:
        saving = 1 - (small + operator + grown) / baseline
    return Parts(small, operator, grown, baseline, saving)


def _measure(part: Spent | Point | None, name: str) -> float | None:
    return None if part is None else getattr(part, name)


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
