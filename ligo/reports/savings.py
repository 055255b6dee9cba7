"""The savings that a run states, checked against their parts, and the finding in one sentence.

What was not measured is called that, and a target loss that was not reached never turns into a saving.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ligo.core import units
from ligo.reports.collect import ARM_LABELS
from ligo.reports.words import MET_AT_START, NOT_MEASURED, NOT_REACHED, finite, loss_text, or_absent

SAVINGS_COLUMNS = ("convention", "small", "operator", "grown until V*", "total", "from scratch", "saving")


@dataclass(frozen=True)
class Saving:
    """One way to count, checked: the saving is a number only when every part of it is one."""

    convention: str
    small: float | None
    operator: float | None
    grown: float | None
    scratch: float | None
    stated: float | None
    met_at_start: bool = False

    @property
    def reached(self) -> bool:
        return self.grown is not None

    @property
    def total(self) -> float | None:
        parts = (self.small, self.operator, self.grown)
        return None if None in parts else sum(part for part in parts if part is not None)

    @property
    def saving(self) -> float | None:
        return None if self.total is None or self.scratch is None else self.stated

    @property
    def agrees(self) -> bool:
        """Whether the stated saving is what the formula gives for the stated parts."""
        if self.saving is None or self.total is None or not self.scratch:
            return self.stated is None
        return math.isclose(self.saving, 1 - self.total / self.scratch, abs_tol=1e-3)

    def cells(self) -> list[str]:
        """The row as text, in the order of SAVINGS_COLUMNS."""
        absent = NOT_MEASURED if self.reached or self.scratch is None else NOT_REACHED
        return [
            self.convention,
            or_absent(self.small, units.flops),
            or_absent(self.operator, units.flops),
            or_absent(self.grown, units.flops, absent),
            or_absent(self.total, units.flops, absent),
            or_absent(self.scratch, units.flops),
            units.percent(
                self.saving, MET_AT_START if self.met_at_start and self.total is not None else absent
            ),
        ]


def savings(summary: Mapping[str, Any]) -> list[Saving]:
    """The savings of a summary, one per convention."""
    rows = []
    for row in summary.get("savings") or ():
        parts = (
            finite(row.get(key)) for key in ("small_flops", "operator_flops", "grown_flops", "scratch_flops")
        )
        small, operator, grown, scratch = parts
        convention, stated = str(row.get("convention", "")), finite(row.get("saving"))
        at_start = row.get("met_at_start") is True
        rows.append(Saving(convention, small, operator, grown, scratch, stated, at_start))
    return rows


def answer(summary: Mapping[str, Any]) -> str:
    """The finding in one sentence, good or bad."""
    if "tuning" in summary:
        return _tuned(summary["tuning"])
    rows = savings(summary)
    target = summary.get("target_loss") or {}
    if not rows or target.get("value") is None or all(row.scratch is None for row in rows):
        return (
            "Whether growing saves compute was not measured: it takes both a grown run and one from scratch."
        )
    if not any(row.reached for row in rows):
        return (
            f"No saving: the grown model did not reach the target loss of {loss_text(target['value'])} "
            "within its budget (not reached)."
        )
    sunk, charged = (
        next((row.saving for row in rows if word in row.convention), None) for word in ("sunk", "charged")
    )
    at_start = any(row.met_at_start for row in rows)
    if sunk is None and charged is None:
        if at_start:
            return (
                "The grown model met the target loss before its first step; what the small model itself cost was not measured, "
                "so nothing is said of a saving."
            )
        return "Growing reached the target loss, but a part of its cost was not measured."
    return claim("Growing", sunk, charged, at_start=at_start)


def _tuned(tuning: Mapping[str, Any]) -> str:
    start, end = finite(tuning.get("start_loss")), finite(tuning.get("loss"))
    if start is None or end is None:
        return "What tuning did to the loss of responses was not measured."
    did = "lowered" if end < start else "did not lower"
    return f"Tuning {did} the loss of responses that were held out: {start:.4f} before, {end:.4f} after."


def controls(summary: Mapping[str, Any]) -> list[str]:
    """How each control ended beside the grown arm, in one sentence each."""
    losses = {arm["name"]: finite(arm.get("final_loss")) for arm in summary.get("arms") or ()}
    grown, sentences = losses.get("grown"), []
    for name in ("continue", "short"):
        loss = losses.get(name)
        if loss is not None and grown is not None:
            side = "below" if loss < grown else "above" if loss > grown else "at"
            sentences.append(
                f"Control: {ARM_LABELS[name]} ended at {loss_text(loss)}, {side} the grown model's {loss_text(grown)}."
            )
    return sentences


def claim(who: str, sunk: float | None, charged: float | None, *, at_start: bool = False) -> str:
    """Both savings in one sentence, that of the small model charged first.

    Args:
        sunk, charged: fractions of the scratch run's compute; one of them may not be measured.
        at_start: whether the target loss was met before the first step, which is no saving with the small model sunk.
    """
    if charged is None:
        assert sunk is not None
        return (
            f"{who} {_claim(sunk)} when the small model is already there; "
            "what the small model itself cost was not measured."
        )
    sentence = f"{who} {_claim(charged)} (small model charged)"
    if sunk is None:
        return (
            f"{sentence}; the grown model met the target loss before its first step."
            if at_start
            else f"{sentence}."
        )
    same_sign = (sunk > 0) == (charged > 0)
    more = units.percent(abs(sunk)) + ("" if sunk > 0 else " more")
    joint = f"; {more}" if same_sign else f", but {'saved' if sunk > 0 else 'cost'} {more}"
    return f"{sentence}{joint} when the small model is already there."


def _claim(saving: float) -> str:
    if saving > 0:
        return f"saved {units.percent(saving)} of the compute of training from scratch"
    return f"cost {units.percent(-saving)} more compute than training from scratch"
