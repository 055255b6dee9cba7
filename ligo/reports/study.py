"""A study folder in, its arms over seeds out: final losses, and savings against the scratch run of the same seed.

Runs of a study need no report of their own: what counts is what they wrote down while they ran.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.accounting.phases import TRAINED
from ligo.accounting.savings import (
    MEASURES,
    Point,
    Spent,
    TargetSaving,
    savings_by_target,
    targets,
)
from ligo.accounting.statistics import Estimate, estimate
from ligo.core.errors import DataError
from ligo.core.files import read_json
from ligo.reports.collect import RunRecord, made_of, read_arms
from ligo.reports.comparable import check_same_evaluation, evaluated_on, run_config
from ligo.reports.growth import growth_facts

_EARLIER = "Of earlier runs: "
STAGES = {arm: stage for stage, arm in TRAINED.items()}
"""The stage that trains each arm."""


@dataclass(frozen=True)
class Member:
    """One finished run of a study."""

    record: RunRecord
    arm: str
    size: str
    seed: int
    results: Mapping[str, Mapping[str, Any]]
    """Of its stages."""
    config: Mapping[str, Any]
    """Its config.yaml; empty where there is none."""
    made: Mapping[str, Any]
    """When, on what hardware and with which versions."""
    evaluated_on: tuple[Any, ...] | None
    """As `ligo.reports.comparable.evaluated_on` gives it."""

    @property
    def group(self) -> str:
        return _group(self.arm, self.size)

    @property
    def final_loss(self) -> float:
        """Of what it trains."""
        return next(float(self.results[stage]["loss"]) for stage in TRAINED if stage in self.results)

    @property
    def peak_rate(self) -> float | None:
        """At which that was trained."""
        return next(self.results[stage].get("peak_lr") for stage in TRAINED if stage in self.results)

    @property
    def operator(self) -> Spent:
        """What growth itself took: learning, and building the weights once."""
        learning = self.results.get("learn", {})
        built = self.results.get("write", {}).get("build_flops", 0.0)
        return Spent(
            learning.get("flops", 0.0) + built, learning.get("tokens", 0), learning.get("wall_s", 0.0)
        )

    def points(self, arm: str) -> list[Point]:
        """The evaluations of one of its arms."""
        if arm not in self.record.arms:
            return []
        curve = self.record.arms[arm].validation
        return [
            Point(*values) for values in zip(curve.tokens, curve.flops, curve.wall_s, curve.loss, strict=True)
        ]

    def is_whole(self, arm: str) -> bool:
        """Whether its evaluations go to the loss that the arm ended with; a metrics file may have been cut."""
        points, result = self.points(arm), self.results.get(STAGES[arm])
        return (
            bool(points)
            and result is not None
            and math.isclose(points[-1].loss, result["loss"], rel_tol=1e-6)
        )


@dataclass(frozen=True)
class Earlier:
    """Runs of a study that are no longer there, as its results.json has them."""

    members: tuple[Member, ...]
    notes: tuple[str, ...]
    swept: bool
    """As of a `Study`."""


@dataclass(frozen=True)
class ArmOfStudy:
    """One arm at one size, over its seeds."""

    name: str
    size: str
    trains: str
    """What is trained: grown, scratch, short or continue."""
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    final_loss: Estimate
    final_accuracy: Estimate | None
    """Share of the validation images; None: text, or runs that did not keep it."""
    savings: Mapping[tuple[float, str, str], Estimate | None]
    """By share of the scratch run's FLOPs, convention and measure; None: not known, or not reached, for every seed."""
    reached: int | None
    """Seeds that reached the final loss of the scratch run; None: there is nothing to compare with."""
    met_at_start: int = 0
    """Seeds that were there before their first step, which have no saving with the small model sunk."""


@dataclass(frozen=True)
class Study:
    """A study as far as its runs are finished."""

    name: str
    question: str
    members: tuple[Member, ...]
    arms: tuple[ArmOfStudy, ...]
    unfinished: tuple[str, ...]
    """Arms of which no run is finished."""
    swept: bool
    """Whether the sweep has searched the rates of arms."""
    notes: tuple[str, ...]


def load_study(folder: Path, earlier: Earlier | None = None) -> Study:
    """Read a folder that ligo.sweep made; runs that are missing or unfinished become notes.

    Args:
        earlier: of the same study. A run in the folder takes the place of an earlier one of its arm, size and seed.

    Raises:
        DataError: no run is finished; two runs are one arm at one seed and rate; or runs of one size were evaluated on different data.
    """
    study, notes = read_json(folder / "study.json"), list[str]()
    searches = _searches(folder, notes)
    rates = {key: row["best_rate"] for key, row in searches.items()}
    groups: dict[tuple[str, str], list[tuple[float | None, Member]]] = {}
    others, unsettled = 0, list[str]()
    for name, run in study["runs"].items():
        key, best = (run["arm"], run["size"]), rates.get((run["arm"], run["size"]))
        if best is not None and run["rate"] not in (None, best):
            others += 1
        elif (member := _member(folder / name, run, notes)) is not None:
            groups.setdefault(key, []).append((run["rate"], member))
    members: dict[tuple[str, str, int], Member] = {}
    for key, runs in groups.items():
        if len({rate for rate, _ in runs if rate is not None}) > 1:
            # a sweep that was stopped has not said yet which rate is the arm's
            best = _best_so_far(runs)
            others += sum(rate not in (None, best) for rate, _ in runs)
            unsettled.append(_group(*key))
            runs = [(rate, member) for rate, member in runs if rate in (None, best)]
        for _, member in runs:
            twin = members.setdefault((*key, member.seed), member)
            if twin is not member:
                raise DataError(
                    f"{twin.record.folder.name} and {member.record.folder.name} are both arm {member.group} at seed "
                    f"{member.seed}: it is not known which counts.\n  Try: move one of them away"
                )
    notes += [
        f"{group}: the sweep was stopped before its search for a rate ended; the best of those that are finished is taken."
        for group in sorted(unsettled)
    ]
    if earlier is not None:
        for member in earlier.members:
            members.setdefault((member.arm, member.size, member.seed), member)
        notes += [f"{_EARLIER}{note.removeprefix(_EARLIER)}" for note in earlier.notes]
    notes += _at_several_rates(members.values())
    if not members:
        raise DataError(
            f"no run of {folder} is finished: "
            + "; ".join(notes)
            + f"\n  Try: python -m ligo.sweep status {folder.name}"
        )
    if others:
        notes.append(f"{others} runs at rates that are not their arm's best are left out.")
    found = tuple(members.values())
    for size in dict.fromkeys(member.size for member in found):  # sizes are not compared with each other
        notes += check_same_evaluation(
            {member.record.name: member.evaluated_on for member in found if member.size == size}
        )
    finished = {member.group for member in found}
    planned = dict.fromkeys(_group(run["arm"], run["size"]) for run in study["runs"].values())
    return Study(
        name=study["name"],
        question=study.get("question", ""),
        members=found,
        arms=tuple(_arms(found, notes)),
        unfinished=tuple(name for name in planned if name not in finished),
        swept=bool(unsettled)
        or any(row["bracketed"] is not None for row in searches.values())
        or (earlier is not None and earlier.swept),
        notes=tuple(notes),
    )


def _group(arm: str, size: str) -> str:
    return f"{arm} ({size})" if size else arm


def _best_so_far(runs: Sequence[tuple[float | None, Member]]) -> float:
    """The rate with the most finished seeds, and of those the one with the lowest mean loss."""
    losses: dict[float, list[float]] = {}
    for rate, member in runs:
        if rate is not None:
            losses.setdefault(rate, []).append(member.final_loss)
    return max(losses, key=lambda rate: (len(losses[rate]), -math.fsum(losses[rate]) / len(losses[rate])))


def _at_several_rates(members: Iterable[Member]) -> Iterator[str]:
    """Runs of several sweeps, or earlier ones and new ones, need not be of one rate."""
    found: dict[str, set[float]] = {}
    for member in members:
        if (rate := member.peak_rate) is not None:
            found.setdefault(member.group, set()).add(rate)
    for group, rates in found.items():
        if len(rates) > 1:
            yield f"{group}: its seeds ran at different peak rates, {', '.join(f'{rate:g}' for rate in sorted(rates))}."


def _searches(folder: Path, notes: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the sweep found of the rate of each arm and size: the best, and whether it is bracketed (None: not searched for)."""
    path = folder / "rates.json"
    rows = read_json(path) if path.exists() else []
    notes += [
        f"{_group(row['arm'], row['size'])}: its best rate {row['best_rate']:g} is at the edge of those tried; a better "
        "one may lie beyond."
        for row in rows
        if row["best_rate"] is not None and row["bracketed"] is False
    ]
    return {(row["arm"], row["size"]): row for row in rows if row["best_rate"] is not None}


def _member(folder: Path, run: Mapping[str, Any], notes: list[str]) -> Member | None:
    what = f"{folder.name} (arm {run['arm']}, seed {run['seed']})"
    if not folder.is_dir():
        notes.append(f"{what} is missing.")
        return None
    results, plan = (
        read_json(path) if (path := folder / name).exists() else {} for name in ("stages.json", "plan.json")
    )
    left = [stage for stage in run["stages"] if stage not in results and stage != "report"]
    if left:
        notes.append(f"{what} is not finished: {', '.join(left)} left to do{_why(folder)}.")
        return None
    warnings: list[str] = []
    arms = read_arms(folder, {}, warnings)
    notes += [f"{what}: {warning}" for warning in warnings]
    arms = {name: arm for name, arm in arms.items() if name in STAGES}
    config = run_config(folder)
    summary = {"name": folder.name, **growth_facts(plan, results, config)}
    record = RunRecord(folder, summary, plan, arms, tuple(warnings))
    return Member(
        record, run["arm"], run["size"], run["seed"], results, config,
        made_of(folder), evaluated_on(folder, config),
    )  # fmt: skip


def _why(folder: Path) -> str:
    """What a run that failed said last."""
    path = folder / "STATUS"
    status = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    return f"; {status.rstrip('.')}" if status.startswith("failed") else ""


# --- arms over seeds ------------------------------------------------------------------------------------


def _arms(members: Sequence[Member], notes: list[str]) -> Iterator[ArmOfStudy]:
    for member in members:
        notes += [
            f"{member.record.name}: metrics.jsonl does not go to the end of the arm {arm}: what it saved, or is saved against "
            "it, is not counted."
            for arm in member.record.arms
            if STAGES[arm] in member.results and not member.is_whole(arm)
        ]
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in sorted(members, key=lambda member: member.seed):
        for stage, arm in TRAINED.items():
            if stage in member.results:
                groups.setdefault((member.group, arm), []).append(member)
    for (name, arm), runs in groups.items():
        losses = [float(run.results[STAGES[arm]]["loss"]) for run in runs]
        right = [run.results[STAGES[arm]].get("accuracy") for run in runs]
        savings = [_savings(run, members) for run in runs] if arm == "grown" else []
        known = [rows for rows in savings if rows]
        if savings and len(known) < len(savings):
            notes.append(
                f"{name}: {len(savings) - len(known)} of {len(savings)} seeds have no scratch run of their seed to be "
                "compared with, or several."
            )
        complete = known if len(known) == len(savings) else []
        yield ArmOfStudy(
            name,
            runs[0].size,
            arm,
            tuple(run.seed for run in runs),
            tuple(run.record.name for run in runs),
            estimate(losses),
            estimate([found for found in right if found is not None]) if None not in right else None,
            over_seeds(complete),
            sum(rows[-1].reached for rows in complete) if complete else None,
            sum(rows[-1].met_at_start for rows in complete),
        )


def _savings(run: Member, members: Sequence[Member]) -> list[TargetSaving]:
    """Against its own scratch arm, or the one scratch run of the same size and seed; empty where there is none."""
    own = [run] if run.points("scratch") else []
    same = own or [m for m in members if (m.size, m.seed) == (run.size, run.seed) and m.points("scratch")]
    if len(same) != 1 or not run.is_whole("grown") or not same[0].is_whole("scratch"):
        return []
    scratch, small = same[0].points("scratch"), run.results["train"].get("small_training", {})
    return savings_by_target(
        run.points("grown"), scratch, targets(scratch, "scratch"), operator=run.operator,
        small=Spent(small.get("flops"), small.get("tokens"), small.get("wall_s")),
    )  # fmt: skip


def over_seeds(
    rows_of_seeds: Sequence[Sequence[TargetSaving]],
) -> dict[tuple[float, str, str], Estimate | None]:
    """Savings by share of the scratch run's FLOPs, convention and measure.

    A mean over the seeds that reached a loss alone would flatter: one that did not leaves none.
    """
    values: dict[tuple[float, str, str], list[float | None]] = {}
    for rows in rows_of_seeds:
        for row in rows:
            for measure in MEASURES:
                key = (row.target.share, row.convention, measure)
                values.setdefault(key, []).append(row.measures[measure].saving)
    return {
        key: None
        if None in found or len(found) < len(rows_of_seeds)
        else estimate([v for v in found if v is not None])
        for key, found in values.items()
    }
