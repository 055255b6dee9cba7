"""results.json: all numbers of a report as plain data, in one schema for runs and for studies; docs/results.md describes it.

Whoever reads it checks `schema_version`: it rises when a key changes its meaning or goes away, not when one is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ligo.accounting.savings import MEASURES
from ligo.accounting.statistics import CONFIDENCE, Estimate, estimate
from ligo.reports.collect import Arm, RunRecord, made_of
from ligo.reports.comparable import evaluated_on, run_config
from ligo.reports.run_table import arms_of
from ligo.reports.savings import answer, savings
from ligo.reports.study import STAGES, Member, Study
from ligo.reports.study_table import study_answer, study_not_measured
from ligo.reports.words import finite

SCHEMA_VERSION = 1
_INTERVAL = f"percentile bootstrap of the mean, {CONFIDENCE:g}"


def study_results(study: Study) -> dict[str, Any]:
    """Of the arms of a study over their seeds."""
    arms = [
        {
            "arm": arm.name, "trains": arm.trains, "seeds": list(arm.seeds), "runs": list(arm.runs),
            "final_loss": stated(arm.final_loss, "nats"), "final_accuracy": _share(arm.final_accuracy),
            "reached_final_loss_of_scratch_seeds": arm.reached,
            "met_at_start_seeds": arm.met_at_start,
            "savings": [
                _saving(share, convention, measure, found)
                for (share, convention, measure), found in arm.savings.items()
            ],
        }
        for arm in study.arms
    ]  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "of": "study",
        "name": study.name,
        "question": study.question,
        "answer": " ".join(study_answer(study)).strip(),
        "interval": _INTERVAL,
        "arms": arms,
        "runs": [_member(member) for member in study.members],
        "not_measured": study_not_measured(study),
        "notes": list(study.notes),
    }


def run_results(runs: Sequence[RunRecord], notes: Sequence[str]) -> dict[str, Any]:
    """Of one run, or of several side by side: each arm stands for one seed."""
    one = len(runs) == 1
    return {
        "schema_version": SCHEMA_VERSION,
        "of": "runs",
        "name": runs[0].name if one else None,
        "question": "",
        "answer": answer(runs[0].summary) if one else None,
        "interval": _INTERVAL,
        "arms": [arm for run in runs for arm in _arms(run)],
        "runs": [_run(run) for run in runs],
        "not_measured": [
            what if one else f"{run.name}: {what}"
            for run in runs
            for what in run.summary.get("not_measured") or ()
        ],
        "notes": list(notes),
    }


def _arms(run: RunRecord) -> Iterator[dict[str, Any]]:
    for arm in run.summary.get("arms") or ():
        grown, loss = arm["name"] == "grown", finite(arm.get("final_loss"))
        rows = savings(run.summary) if grown else []
        reached = [row.reached for row in rows if row.scratch is not None]
        yield {
            "arm": run.name, "trains": arm["name"], "seeds": [None], "runs": [run.name],
            "final_loss": stated(estimate([] if loss is None else [loss]), "nats"),
            "final_accuracy": _share(_one(arm.get("accuracy"))),
            "reached_final_loss_of_scratch_seeds": int(all(reached)) if reached else None,
            "met_at_start_seeds": int(any(row.met_at_start for row in rows)),
            "savings": list(_savings_of_run(run)) if grown else [],
        }  # fmt: skip


def _savings_of_run(run: RunRecord) -> Iterator[dict[str, Any]]:
    """To the losses of the scratch run on its way; of an older run, to its final one alone."""
    rows = [row for row in run.summary.get("savings_by_target") or () if row["of"] == "scratch"]
    for row in rows:
        for measure in MEASURES:
            yield _saving(row["share"], row["convention"], measure, _one(row[measure]["saving"]))
    if not rows:
        for saving in savings(run.summary):
            yield _saving(1.0, saving.convention, "flops", _one(saving.saving))


def _share(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else stated(found, "fraction")


def _one(value: Any) -> Estimate | None:
    number = finite(value)
    return None if number is None else estimate([number])


def _saving(share: float, convention: str, measure: str, found: Estimate | None) -> dict[str, Any]:
    return {"scratch_share": share, "convention": convention, "measure": measure,
            "saving": _share(found)}  # fmt: skip


def stated(found: Estimate, unit: str) -> dict[str, Any]:
    """An estimate, its keys with their unit."""
    return {
        "num_seeds": found.num_values, f"mean_{unit}": found.mean, f"deviation_{unit}": found.deviation,
        f"interval_{unit}": found.interval and list(found.interval),
    }  # fmt: skip


def _member(member: Member) -> dict[str, Any]:
    trained = {
        arm: _trained({**result, "final_loss": result["loss"]}, member.record.arms.get(arm))
        for arm, stage in STAGES.items()
        if (result := member.results.get(stage))
    }
    trainings = (result["small_training"] for result in member.results.values() if "small_training" in result)
    return {
        "run": member.record.name, "arm": member.arm, "size": member.size, "seed": member.seed, **trained,
        "operator": asdict(member.operator), "small_training": _spent(next(trainings, {})),
        "growth": member.record.summary["growth"], "made": dict(member.made), "evaluated_on": member.evaluated_on,
    }  # fmt: skip


def _run(run: RunRecord) -> dict[str, Any]:
    trained = {
        arm["name"]: _trained(arm, run.arms.get(arm["name"])) for arm in arms_of(run) if "final_loss" in arm
    }
    growth: Mapping[str, Any] = run.summary.get("growth") or {}
    phases = run.summary.get("phases") or {}
    operator = {**_spent(phases.get("operator") or {}), "flops": growth.get("operator_flops")}
    return {
        "run": run.name, "arm": run.name, "size": "", "seed": None, **trained, "operator": operator,
        "small_training": _spent(phases.get("small") or {}), "growth": dict(growth), "made": made_of(run.folder),
        "evaluated_on": evaluated_on(run.folder, run_config(run.folder)),
    }  # fmt: skip


def _trained(result: Mapping[str, Any], arm: Arm | None) -> dict[str, Any]:
    curve = None if arm is None else arm.validation
    return {
        "final_loss_nats": result["final_loss"], "final_accuracy": result.get("accuracy"), "tokens": result.get("tokens"), "flops": result.get("flops"),
        "wall_seconds": result.get("wall_s"), "peak_rate": result.get("peak_lr"),
        "evaluations": {
            name: [] if curve is None else getattr(curve, name).tolist() for name in ("tokens", "flops", "wall_s", "loss")
        },
    }  # fmt: skip


def _spent(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found.get(key) for key in ("flops", "tokens", "wall_s")}
