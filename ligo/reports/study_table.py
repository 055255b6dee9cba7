"""The table of a study: one row per arm, for the page, for a paper (Markdown), and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ligo.accounting.statistics import CONFIDENCE, FEWEST_FOR_INTERVAL, Estimate
from ligo.reports.collect import ARM_LABELS
from ligo.reports.study import ArmOfStudy, Study

STUDY_COLUMNS = (
    "arm",
    "trained",
    "seeds",
    "final loss",
    "reached V*",
    "saved, small sunk",
    "saved, small charged",
)
EXPLANATION = (
    f"Mean ± sample standard deviation over seeds [percentile bootstrap interval of the mean, {CONFIDENCE:.0%}, narrow for few "
    f"seeds; none below {FEWEST_FOR_INTERVAL} seeds]. Savings are of FLOPs, to the final loss V* of the scratch run of the same "
    "seed; an arm of which a seed did not reach it has no mean."
)


def study_rows(study: Study) -> list[list[str]]:
    """One row per arm, the lowest loss first, in the order of STUDY_COLUMNS."""
    ordered = sorted(study.arms, key=lambda arm: arm.final_loss.mean or 0.0)
    return [
        [
            arm.name,
            ARM_LABELS.get(arm.trains, arm.trains),
            str(len(arm.seeds)),
            _stated(arm.final_loss, "{:.4f}".format),
            "" if arm.trains != "grown" else _reached(arm),
            *(_saving(arm, f"small model {convention}") for convention in ("sunk", "charged")),
        ]
        for arm in ordered
    ]


def markdown(study: Study) -> str:
    """The table as Markdown, with what it means below it."""
    rows: Sequence[Sequence[str]] = [STUDY_COLUMNS, ["---"] * len(STUDY_COLUMNS), *study_rows(study)]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    notes = [f"- {note}" for note in study.notes]
    return "\n".join([*lines, "", EXPLANATION, *(["", *notes] if notes else [])]) + "\n"


def _reached(arm: ArmOfStudy) -> str:
    return "not measured" if arm.reached is None else f"{arm.reached} of {len(arm.seeds)}"


def _saving(arm: ArmOfStudy, convention: str) -> str:
    if arm.trains != "grown":
        return ""
    found = arm.savings.get((1.0, convention, "flops"))
    if found is not None:
        return _stated(found, lambda value: f"{100 * value:.1f} %")
    if arm.met_at_start and "sunk" in convention:
        return f"met at the start by {arm.met_at_start} of {len(arm.seeds)}"
    reached_by_all = arm.reached is None or arm.reached == len(arm.seeds)
    return "not measured" if reached_by_all else "not reached"


def _stated(found: Estimate, write: Callable[[float], str]) -> str:
    if found.mean is None:
        return "not measured"
    text = write(found.mean)
    if found.deviation is not None:
        text += f" ± {write(found.deviation)}"
    if found.interval is not None:
        text += f" [{write(found.interval[0])}, {write(found.interval[1])}]"
    return text
