"""The savings ledger: what growing cost, against what training from scratch cost, to the same loss.

    saving = 1 - (C_small * charged + C_operator + C_grown(V*)) / C_scratch(V*)

V* is the scratch run's final validation loss on its own fully decayed schedule. C_grown(V*) is counted
up to the first evaluation from which on the grown run's validation loss stays at or below V*; if there is
none the saving is None, never an extrapolation. All losses are over one fixed validation set.

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

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


MEASURES = ("flops", "tokens", "wall_s")
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
    """A saving in one measure and what it is made of; None: not recorded, or the loss was not reached."""

    small: float | None
    operator: float | None
    grown: float | None
    baseline: float | None

    @property
    def saving(self) -> float | None:
        spent = (self.small, self.operator, self.grown)
        if None in spent or not self.baseline:
            return None
        return 1 - sum(part for part in spent if part is not None) / self.baseline

    def as_json(self) -> dict[str, float | None]:
        return {**asdict(self), "saving": self.saving}


@dataclass(frozen=True)
class TargetSaving:
    """One row of the ledger: a target loss, a convention, and the saving in each measure."""

    target: Target
    convention: str
    reached: bool
    measures: dict[str, Parts]

    def as_json(self) -> dict[str, Any]:
        measures = {name: parts.as_json() for name, parts in self.measures.items()}
        return {**asdict(self.target), "convention": self.convention, "reached": self.reached, **measures}


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
        for convention, charged in (("small model sunk", FREE), ("small model charged", small)):
            parts = (charged, operator, ours, theirs)
            measures = {name: Parts(*(_measure(part, name) for part in parts)) for name in MEASURES}
            rows.append(TargetSaving(target, convention, ours is not None, measures))
    return rows


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
