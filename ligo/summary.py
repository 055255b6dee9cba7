"""summary.json: everything that the report and the tracker show of a run, as plain data."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ligo import __version__
from ligo.accounting.flops import model_flops
from ligo.accounting.savings import Point, curve, loss_at, savings
from ligo.checkpoint.reader import Checkpoint, read_json_object
from ligo.config import GrowConfig, scratch_training
from ligo.core.errors import CheckpointError
from ligo.core.run import Run, command_line, hardware, versions
from ligo.growth.plan import GrowthPlan
from ligo.tracking.jsonl import read_records


def summarise(config: GrowConfig, run: Run, small: Checkpoint, plan: GrowthPlan) -> dict[str, Any]:
    """The summary of a run from its stage results and its metrics; what is missing is said to be."""
    results, records = run.stage_results(), read_records(run.metrics)
    trained = small_training_record(config, small, plan)
    arms = _arms(config, results)
    summary: dict[str, Any] = {
        "name": run.folder.name,
        "command": command_line(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {**versions(), "ligo": __version__},
        "hardware": hardware(),
        "small": {
            "name": config.small.name,
            "parameters": plan.small.num_parameters,
            "train_flops": trained.get("flops"),
            "train_tokens": trained.get("tokens"),
            "loss": trained.get("loss"),
        },
        "target": {
            "name": config.target.name,
            "parameters": plan.target.num_parameters,
            "hidden_size": plan.target.dims.hidden_size,
            "num_layers": plan.target.dims.num_layers,
        },
        "growth": _growth(config, run, plan),
        "arms": arms,
        "target_loss": None,
        "savings": [],
        "equal_tokens": None,
        "equal_flops": None,
        "not_measured": _not_measured(config, results),
        "notes": [],
    }
    curves = {arm["name"]: curve(records, arm["name"]) for arm in arms}
    if curves.get("grown") and curves.get("scratch"):
        summary |= _comparison(curves, operator_flops(run), trained.get("flops"))
        summary["notes"] += _caveats(arms, summary["equal_tokens"]["tokens"], trained)
    return summary


def operator_flops(run: Run) -> float:
    """What growth itself cost: learning, and building the weights once."""
    results = run.stage_results()
    learning, writing = results.get("learn", {}), results.get("write", {})
    return float(learning.get("flops", 0.0) + writing.get("build_flops", 0.0))


def small_training_record(config: GrowConfig, small: Checkpoint, plan: GrowthPlan) -> dict[str, Any]:
    """What is known of the small model's own training: flops, tokens, loss.

    Its `ligo.json` says, or the preset's published token count, which holds for the preset's own weights alone.
    """
    preset, card = config.small, small.folder / "ligo.json"
    try:
        known = dict(read_json_object(card).get("training") or {}) if card.is_file() else {}
    except (CheckpointError, TypeError, ValueError):
        known = {}  # somebody else's file: then nothing is known
    if "flops" not in known and preset.train_tokens and preset.path is None:
        per_token = model_flops(plan.small, preset.train_sequence_length).training
        known.update(tokens=int(preset.train_tokens), flops=preset.train_tokens * per_token)
    return known


def _growth(config: GrowConfig, run: Run, plan: GrowthPlan) -> dict[str, Any]:
    results = run.stage_results()
    learned, verified = results.get("learn", {}), results.get("verify", {})
    return {
        "operator": _operator_name(config, results),
        "start": config.operator.init,
        "exact": plan.exactness.exact and not learned.get("best_step"),
        "verdict": plan.exactness.reason,
        "max_logit_difference": verified.get("max_logit_difference"),
        "loss_at_start": learned.get("start_loss"),
        "loss_after_learning": learned.get("best_loss"),
        "operator_flops": operator_flops(run),
        "operator_parameters": learned.get("parameters", 0),
        "learned_against": learned.get("small"),
        "reused": learned.get("reused"),
    }


def _operator_name(config: GrowConfig, results: dict[str, Any]) -> str:
    """The operator, and for auto which one was chosen."""
    chosen = results.get("learn", {}).get("chosen")
    return f"{config.operator.name}: {chosen}" if chosen else config.operator.name


def _arms(config: GrowConfig, results: dict[str, Any]) -> list[dict[str, Any]]:
    """The arms that were trained to the end."""
    labels = {
        "train": ("grown", f"grown ({_operator_name(config, results)})"),
        "scratch": ("scratch", "from scratch"),
        "continue": ("continue", "small model trained on"),
    }
    measured = ("tokens", "flops", "wall_s", "peak_lr")
    return [
        {
            "name": arm,
            "label": label,
            "final_loss": results[stage]["loss"],
            **{k: results[stage][k] for k in measured},
        }
        for stage, (arm, label) in labels.items()
        if stage in results
    ]


def _comparison(curves: dict[str, list[Point]], operator: float, small: float | None) -> dict[str, Any]:
    """Savings to the scratch run's final loss, and losses within equal budgets of tokens and of FLOPs."""
    grown, scratch = curves["grown"], curves["scratch"]
    tokens = min(grown[-1].tokens, scratch[-1].tokens)
    budget = min(grown[-1].flops + operator, scratch[-1].flops)
    within_flops = {name: loss_at(points, flops=budget) for name, points in curves.items()}
    within_flops["grown"] = loss_at(grown, flops=budget - operator)
    within_tokens = {name: loss_at(curves[name], tokens=tokens) for name in ("grown", "scratch")}
    rows = savings(grown, scratch, operator_flops=operator, small_flops=small)
    return {
        "target_loss": {"value": scratch[-1].loss, "of": "scratch"},
        "savings": [row.as_json() for row in rows],
        "equal_tokens": {"tokens": tokens, "losses": within_tokens},
        "equal_flops": {"flops": budget, "losses": within_flops},
    }


def _caveats(arms: list[dict[str, Any]], tokens: int, trained: dict[str, Any]) -> list[str]:
    caveats = []
    longer = [arm["label"] for arm in arms if arm["tokens"] > tokens and arm["name"] != "continue"]
    if longer:
        caveats.append(
            "At equal tokens and equal FLOPs a run that goes on after that point is read in the middle of its "
            f"schedule, before its learning rate has decayed: {', '.join(longer)}."
        )
    if trained.get("flops") is None:
        caveats.append("Nobody recorded what training the small model cost: it cannot be charged.")
    return caveats


def _not_measured(config: GrowConfig, results: dict[str, Any]) -> list[str]:
    """What a reader should miss: controls that were not run, and what may make the baseline too weak."""
    missing = []
    if "continue" not in results:
        missing.append("the small model trained on at equal total FLOPs (add continue to stages)")
    missing += ["the same scratch run with a schedule as short as the grown run's", "several seeds"]
    scratch = scratch_training(config)
    if not (config.target.scratch_lr_is_tuned and scratch.lr == config.target.scratch_lr):
        missing.append(f"whether {scratch.lr:g} is the best peak rate from scratch: no sweep brackets it")
    if scratch.schedule == "constant" or scratch.final_lr_ratio > 0.1:
        missing.append("a scratch run whose learning rate decays to the end")
    return missing
