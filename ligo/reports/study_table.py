"""What a study found, as rows of text: for the page, for a paper (Markdown), and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ligo.accounting.energy import assumption, footprint
from ligo.accounting.savings import MEASURES
from ligo.accounting.statistics import CONFIDENCE, FEWEST_FOR_INTERVAL, Estimate
from ligo.core import units
from ligo.reports.collect import ARM_LABELS
from ligo.reports.run_table import markdown_table
from ligo.reports.savings import claim
from ligo.reports.study import STAGES, ArmOfStudy, Member, Study
from ligo.reports.words import MET_AT_START, NOT_MEASURED, NOT_REACHED, or_absent

STUDY_COLUMNS = (
    "arm",
    "saved, small charged",
    "saved, small sunk",
    "reached V*",
    "final loss",
    "trained",
    "seeds",
)
"""What counts stands first, where a narrow screen shows it."""
STUDY_TARGET_COLUMNS = ("arm", "to the loss of scratch", "convention", "saved FLOPs", "tokens", "wall time")
COST_COLUMNS = (
    "arm",
    "trained",
    "training",
    "operator",
    "tokens",
    "wall time",
    "device hours",
    "energy",
    "CO2",
)
RATES_NOT_SWEPT = "whether each arm has its best peak rate: the study swept none (study.learning_rates)"
_CONFIDENCE = f"{100 * CONFIDENCE:.0f} %"
EXPLANATION = (
    f"Mean ± sample standard deviation over seeds [percentile bootstrap interval of the mean, {_CONFIDENCE}, narrow for few "
    f"seeds; none below {FEWEST_FOR_INTERVAL} seeds]. Savings are of FLOPs, to the final loss V* of the scratch run of the same "
    "seed; an arm of which a seed did not reach it has no mean."
)
_CONVENTIONS = ("small model sunk", "small model charged")


class _Saved(NamedTuple):
    """What a grown arm saved, of FLOPs, to the final loss of the scratch run; None: not reached at every seed, or not known."""

    arm: ArmOfStudy
    sunk: Estimate | None
    charged: Estimate | None

    @property
    def mean(self) -> float | None:
        """With the small model charged where that is known."""
        found = self.charged or self.sunk
        return None if found is None else found.mean


def study_answer(study: Study) -> tuple[str, str]:
    """The finding in one sentence, of the grown arm that saved most, or why there is none; and what it rests on."""
    grown = [arm for arm in study.arms if arm.trains == "grown"]
    if all(arm.reached is None for arm in grown):
        missing = "Whether growing saves compute was not measured"
        return f"{missing}: it takes grown runs and a scratch run of each one's seed.", ""
    saved = [_Saved(arm, *(arm.savings.get((1.0, word, "flops")) for word in _CONVENTIONS)) for arm in grown]
    known = [found for found in saved if found.mean is not None]
    if not known:
        return "No saving: no grown arm reached the final loss of the scratch run at every seed.", ""
    best = max(known, key=lambda found: (found.mean or 0.0, len(found.arm.seeds)))
    sunk, charged = (None if found is None else found.mean for found in (best.sunk, best.charged))
    at_start = best.arm.met_at_start > 0
    basis = " ".join([_basis(best, len(grown)), *_controls(study, best.arm)])
    return claim(f"Growing by “{best.arm.name}”", sunk, charged, at_start=at_start), basis


def _basis(best: _Saved, num_grown: int) -> str:
    num_seeds, stated = len(best.arm.seeds), best.charged or best.sunk
    basis = f"Mean over {num_seeds} seeds" if num_seeds > 1 else "One seed, no interval"
    if stated is not None and stated.interval is not None:
        low, high = (units.percent(end) for end in stated.interval)
        convention = "sunk" if best.charged is None else "charged"
        basis += f", {_CONFIDENCE} interval {low} to {high} (small model {convention})"
    return basis + (f", the most that one of {num_grown} grown arms saved." if num_grown > 1 else ".")


def _controls(study: Study, best: ArmOfStudy) -> Iterator[str]:
    """How each control of its size ended beside the arm that saved most."""
    for arm in study.arms:
        if (arm.trains in ("continue", "short") and arm.size == best.size) and None not in (
            arm.final_loss.mean,
            best.final_loss.mean,
        ):
            own, other = (found.final_loss.mean or 0.0 for found in (best, arm))
            side = "below" if other < own else "above" if other > own else "at"
            yield f"Control: {ARM_LABELS[arm.trains]} ended at {other:.4f}, {side} its {own:.4f}."


def study_rows(study: Study) -> list[list[str]]:
    """One row per arm, size by size, the lowest loss first, in the order of STUDY_COLUMNS."""
    ordered = sorted(study.arms, key=lambda arm: (arm.size, arm.final_loss.mean or 0.0))
    rows = [
        [
            arm.name,
            *(_saving(arm, convention) for convention in reversed(_CONVENTIONS)),
            "" if arm.trains != "grown" else _reached(arm),
            _final(arm),
            ARM_LABELS.get(arm.trains, arm.trains),
            str(len(arm.seeds)),
        ]
        for arm in ordered
    ]
    return [*rows, *([name, *[NOT_MEASURED] * 4, "", "0"] for name in study.unfinished)]


def _final(arm: ArmOfStudy) -> str:
    """The loss, and of images the share whose class is given."""
    loss = _stated(arm.final_loss, "{:.4f}".format)
    return (
        loss if arm.final_accuracy is None else f"{loss}; {_stated(arm.final_accuracy, units.percent)} right"
    )


def study_target_rows(study: Study) -> list[list[str]]:
    """Savings to the losses that the scratch run had on its way, in the order of STUDY_TARGET_COLUMNS."""
    rows = []
    for arm in study.arms:
        for share, convention in dict.fromkeys((share, convention) for share, convention, _ in arm.savings):
            reached = any(arm.savings[share, word, "flops"] is not None for word in _CONVENTIONS)
            at_start = reached and arm.met_at_start and "sunk" in convention
            absent = MET_AT_START if at_start else NOT_MEASURED if reached else NOT_REACHED
            found = [arm.savings[share, convention, measure] for measure in MEASURES]
            loss = "at its end" if share == 1 else f"after {100 * share:.0f} % of its FLOPs"
            rows.append([arm.name, loss, convention, *(_stated_saving(saving, absent) for saving in found)])
    return rows


def cost_rows(study: Study) -> list[list[str]]:
    """What one run of each arm took, as means over seeds, in the order of COST_COLUMNS."""
    return [
        [arm.name, ARM_LABELS.get(arm.trains, arm.trains), *_cost(arm, members)]
        for arm in study.arms
        if (members := [member for member in study.members if member.record.name in arm.runs])
    ]


def energy_assumption(study: Study) -> str:
    """What energy and emissions rest on, in words; runs of a study share their machine."""
    return assumption(*_power(study.members[0]))


def study_not_measured(study: Study) -> list[str]:
    """What a reader should miss: controls that no arm is, and what may make the baseline too weak."""
    trained, missing = {arm.trains for arm in study.arms}, []
    missing += [f"the arm {name}: no run of it is finished" for name in study.unfinished]
    if "continue" not in trained:
        missing.append("the small model trained on at equal total FLOPs (an arm with stages=[continue])")
    if "short" not in trained:
        missing.append(
            "the scratch run on a schedule as short as the grown run's (an arm with stages=[short])"
        )
    few = [arm.name for arm in study.arms if len(arm.seeds) < FEWEST_FOR_INTERVAL]
    if few:
        missing.append(
            f"intervals of {', '.join(dict.fromkeys(few))}: they take {FEWEST_FOR_INTERVAL} seeds (study.seeds)"
        )
    if not study.swept:
        missing.append(RATES_NOT_SWEPT)
    if _power(study.members[0])[0] is None:
        missing.append("energy and emissions (hardware.watts)")
    return missing


def markdown(study: Study) -> str:
    """The finding, the table, what it means, and what was not measured."""
    parts = [
        " ".join(study_answer(study)).strip(),
        markdown_table(STUDY_COLUMNS, study_rows(study)),
        EXPLANATION,
    ]
    for title, items in (("Not measured:", study_not_measured(study)), ("Notes:", study.notes)):
        parts += [title, "\n".join(f"- {item}" for item in items)] if items else []
    return "\n\n".join(parts) + "\n"


def _reached(arm: ArmOfStudy) -> str:
    return NOT_MEASURED if arm.reached is None else f"{arm.reached} of {len(arm.seeds)}"


def _saving(arm: ArmOfStudy, convention: str) -> str:
    if arm.trains != "grown":
        return ""
    found = arm.savings.get((1.0, convention, "flops"))
    reached_by_all = arm.reached is None or arm.reached == len(arm.seeds)
    absent = NOT_MEASURED if reached_by_all else NOT_REACHED
    if arm.met_at_start and "sunk" in convention:
        absent = f"{MET_AT_START} by {arm.met_at_start} of {len(arm.seeds)}"
    return _stated_saving(found, absent)


def _stated_saving(found: Estimate | None, absent: str) -> str:
    return absent if found is None else _stated(found, lambda value: f"{100 * value:.1f} %")


def _stated(found: Estimate, write: Callable[[float], str]) -> str:
    if found.mean is None:
        return NOT_MEASURED
    text = write(found.mean)
    if found.deviation is not None:
        text += f" ± {write(found.deviation)}"
    if found.interval is not None:
        text += f" [{write(found.interval[0])}, {write(found.interval[1])}]"
    return text


def _cost(arm: ArmOfStudy, members: Sequence[Member]) -> list[str]:
    def mean(values: Sequence[float | None], write: Callable[[float], str]) -> str:
        known = [value for value in values if value is not None]
        return or_absent(fmean(known) if len(known) == len(values) else None, write)

    results = [member.results[STAGES[arm.trains]] for member in members]
    prints = [
        footprint(result.get("wall_s"), result.get("ranks"), *_power(member))
        for member, result in zip(members, results, strict=True)
    ]
    return [
        mean([result.get("flops") for result in results], units.flops),
        mean([member.operator.flops for member in members], units.flops) if arm.trains == "grown" else "",
        mean([result.get("tokens") for result in results], units.si),
        mean([result.get("wall_s") for result in results], units.seconds),
        mean([found.device_hours for found in prints], "{:.3g} h".format),
        mean([found.energy_kwh for found in prints], "{:.3g} kWh".format),
        mean([found.co2_kg for found in prints], "{:.3g} kg".format),
    ]


def _power(member: Member) -> tuple[Any, Any]:
    hardware = member.config.get("hardware", {})
    return hardware.get("watts"), hardware.get("grams_co2_per_kwh")
