"""A study folder in, its arms over seeds out: final losses, and savings against the scratch run of the same seed.

Runs of a study need no report of their own: what counts is what they wrote down while they ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ligo.accounting.phases import TRAINED
from ligo.accounting.savings import (
    MEASURES,
    Point,
    Spent,
    TargetSaving,
    savings_by_target,
    targets,
)
from ligo.accounting.statistics import CONFIDENCE, Estimate, estimate
from ligo.core.errors import DataError
from ligo.core.files import read_json
from ligo.reports.collect import RunRecord, read_arms

_EVALUATION_OPTIONS = ("sequence_length", "validation_tokens")


@dataclass(frozen=True)
class Member:
    """One finished run of a study."""

    record: RunRecord
    arm: str
    size: str
    seed: int
    results: Mapping[str, Mapping[str, Any]]
    """Of its stages."""
    evaluated_on: tuple[Any, ...] | None
    """What decides the evaluation data; None: the run did not write it down."""

    @property
    def group(self) -> str:
        return _group(self.arm, self.size)

    def points(self, arm: str) -> list[Point]:
        """The evaluations of one of its arms."""
        if arm not in self.record.arms:
            return []
        curve = self.record.arms[arm].validation
        return [
            Point(*values) for values in zip(curve.tokens, curve.flops, curve.wall_s, curve.loss, strict=True)
        ]


@dataclass(frozen=True)
class ArmOfStudy:
    """One arm at one size, over its seeds."""

    name: str
    trains: str
    """What is trained: grown, scratch, short or continue."""
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    final_loss: Estimate
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
    notes: tuple[str, ...]


def load_study(folder: Path) -> Study:
    """Read a folder that ligo.sweep made; runs that are missing or unfinished become notes.

    Raises:
        DataError: no run is finished; two runs are one arm at one seed; or runs were evaluated on different data.
    """
    study, notes = read_json(folder / "study.json"), list[str]()
    rates = _best_rates(folder, notes)
    members: dict[tuple[str, str, int], Member] = {}
    others = 0
    for name, run in study["runs"].items():
        best = rates.get((run["arm"], run["size"]))
        if best is not None and run["rate"] not in (None, best):
            others += 1
            continue
        member = _member(folder / name, run, notes)
        if member is None:
            continue
        twin = members.setdefault((member.arm, member.size, member.seed), member)
        if twin is not member:
            raise DataError(
                f"{twin.record.folder.name} and {name} are both arm {member.group} at seed {member.seed}: it is not "
                "known which counts.\n  Try: let the sweep finish, which chooses the rate, or move one of them away"
            )
    if not members:
        raise DataError(
            f"no run of {folder} is finished: "
            + "; ".join(notes)
            + f"\n  Try: python -m ligo.sweep status {folder.name}"
        )
    if others:
        notes.append(f"{others} runs at rates that are not their arm's best are left out.")
    found = tuple(members.values())
    _check_same_evaluation(found, notes)
    arms = tuple(_arms(found, notes))
    return Study(study["name"], study.get("question", ""), found, arms, tuple(notes))


def _group(arm: str, size: str) -> str:
    return f"{arm} ({size})" if size else arm


def _best_rates(folder: Path, notes: list[str]) -> dict[tuple[str, str], float]:
    """By arm and size, as the sweep found them."""
    path = folder / "results.json"
    rows = read_json(path) if path.exists() else []
    notes += [
        f"{_group(row['arm'], row['size'])}: its best rate {row['best_rate']:g} is at the edge of those tried; a better "
        "one may lie beyond."
        for row in rows
        if row["best_rate"] is not None and row["bracketed"] is False
    ]
    return {(row["arm"], row["size"]): row["best_rate"] for row in rows if row["best_rate"] is not None}


def _member(folder: Path, run: Mapping[str, Any], notes: list[str]) -> Member | None:
    what = f"{folder.name} (arm {run['arm']}, seed {run['seed']})"
    if not folder.is_dir():
        notes.append(f"{what} is missing.")
        return None
    path = folder / "stages.json"
    results = read_json(path) if path.exists() else {}
    left = [stage for stage in run["stages"] if stage not in results and stage != "report"]
    if left:
        notes.append(f"{what} is not finished: {', '.join(left)} left to do.")
        return None
    warnings: list[str] = []
    arms = read_arms(folder, {}, warnings)
    notes += [f"{what}: {warning}" for warning in warnings]
    summary = {"name": folder.name, "growth": {"operator_flops": _operator(results).flops}}
    arms = {name: arm for name, arm in arms.items() if name in TRAINED.values()}
    record = RunRecord(folder, summary, {}, arms, tuple(warnings))
    return Member(record, run["arm"], run["size"], run["seed"], results, _evaluated_on(folder))


def _evaluated_on(folder: Path) -> tuple[Any, ...] | None:
    """The fingerprint of text and tokenizer, and how much of it is evaluated in windows of which length."""
    manifest, config = folder / "manifest.json", folder / "config.yaml"
    text = read_json(manifest).get("inputs", {}).get("text") if manifest.exists() else None
    if text is None or not config.exists():
        return None
    data = yaml.safe_load(config.read_text(encoding="utf-8")).get("data", {})
    return (text, *(data.get(key) for key in _EVALUATION_OPTIONS))


def _check_same_evaluation(members: Sequence[Member], notes: list[str]) -> None:
    known = [member for member in members if member.evaluated_on is not None]
    for member in known[1:]:
        first = known[0]
        if member.evaluated_on != first.evaluated_on:
            raise DataError(
                f"{first.record.name} and {member.record.name} were evaluated on different data "
                f"(fingerprint, {', '.join(_EVALUATION_OPTIONS)}: {first.evaluated_on} and {member.evaluated_on}): their "
                "losses cannot be compared.\n  Try: a report of those alone that share their evaluation data"
            )
    if len(known) < len(members):
        names = ", ".join(m.record.name for m in members if m.evaluated_on is None)
        notes.append(f"Which data these runs were evaluated on is not known, and not compared: {names}.")


# --- arms over seeds ------------------------------------------------------------------------------------


def _arms(members: Sequence[Member], notes: list[str]) -> Iterator[ArmOfStudy]:
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in sorted(members, key=lambda member: member.seed):
        for stage, arm in TRAINED.items():
            if stage in member.results:
                groups.setdefault((member.group, arm), []).append(member)
    stages = {arm: stage for stage, arm in TRAINED.items()}
    for (name, arm), runs in groups.items():
        losses = [float(run.results[stages[arm]]["loss"]) for run in runs]
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
            arm,
            tuple(run.seed for run in runs),
            tuple(run.record.name for run in runs),
            estimate(losses),
            _over_seeds(complete),
            sum(rows[-1].reached for rows in complete) if complete else None,
            sum(rows[-1].met_at_start for rows in complete),
        )


def _savings(run: Member, members: Sequence[Member]) -> list[TargetSaving]:
    """Against its own scratch arm, or the one scratch run of the same size and seed; empty where there is none."""
    own = [run] if run.points("scratch") else []
    same = own or [m for m in members if (m.size, m.seed) == (run.size, run.seed) and m.points("scratch")]
    grown = run.points("grown")
    if len(same) != 1 or not grown:
        return []
    scratch, small = same[0].points("scratch"), run.results["train"].get("small_training", {})
    return savings_by_target(
        grown, scratch, targets(scratch, "scratch"), operator=_operator(run.results),
        small=Spent(small.get("flops"), small.get("tokens"), small.get("wall_s")),
    )  # fmt: skip


def _operator(results: Mapping[str, Mapping[str, Any]]) -> Spent:
    learning = results.get("learn", {})
    built = results.get("write", {}).get("build_flops", 0.0)
    return Spent(learning.get("flops", 0.0) + built, learning.get("tokens", 0), learning.get("wall_s", 0.0))


def _over_seeds(
    rows_of_seeds: Sequence[Sequence[TargetSaving]],
) -> dict[tuple[float, str, str], Estimate | None]:
    """A mean over the seeds that reached a loss alone would flatter: one that did not leaves none."""
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


def as_json(study: Study) -> dict[str, Any]:
    """All numbers of a study, with units in their keys."""

    def stated(found: Estimate | None, unit: str) -> dict[str, Any] | None:
        if found is None:
            return None
        return {
            "num_seeds": found.num_values, f"mean_{unit}": found.mean, f"deviation_{unit}": found.deviation,
            f"interval_{unit}": found.interval,
        }  # fmt: skip

    return {
        "name": study.name,
        "question": study.question,
        "interval": f"percentile bootstrap of the mean, {CONFIDENCE:g}",
        "arms": [
            {
                "arm": arm.name, "trains": arm.trains, "seeds": list(arm.seeds), "runs": list(arm.runs),
                "final_loss": stated(arm.final_loss, "nats"), "reached_final_loss_of_scratch_seeds": arm.reached, "met_at_start_seeds": arm.met_at_start,
                "savings": [
                    {"scratch_share": share, "convention": convention, "measure": measure,
                     "saving": stated(found, "fraction")}
                    for (share, convention, measure), found in arm.savings.items()
                ],
            }
            for arm in study.arms
        ],
        "runs": [
            {
                "run": member.record.name, "arm": member.arm, "size": member.size, "seed": member.seed,
                **{
                    arm: {"final_loss_nats": result["loss"], "tokens": result.get("tokens"), "flops": result.get("flops"),
                          "wall_seconds": result.get("wall_s"), "peak_rate": result.get("peak_lr")}
                    for stage, arm in TRAINED.items() if (result := member.results.get(stage))
                },
                "operator": asdict(_operator(member.results)),
            }
            for member in study.members
        ],
        "notes": list(study.notes),
    }  # fmt: skip
