"""summary.json: everything that the report and the tracker show of a run, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ligo import __version__
from ligo.accounting.flops import model_flops, recomputed_flops
from ligo.accounting.meter import measured
from ligo.accounting.phases import cost, phases
from ligo.accounting.savings import (
    TARGET_SHARES,
    Point,
    Spent,
    curve,
    loss_at,
    savings,
    savings_by_target,
    targets,
)
from ligo.checkpoint.reader import Checkpoint, read_json_object
from ligo.config import GrowConfig, scratch_training
from ligo.core.errors import CheckpointError
from ligo.core.run import Run, command_line, hardware, versions
from ligo.growth.plan import GrowthPlan
from ligo.tracking.jsonl import read_records


@dataclass(frozen=True)
class InnerGrowth:
    """A growth inside the grown arm: a run of its own, done or to come."""

    at_tokens: int
    config: GrowConfig
    plan: GrowthPlan
    run: Run


def summarise(
    config: GrowConfig, run: Run, small: Checkpoint, plan: GrowthPlan, inner: Sequence[InnerGrowth] = ()
) -> dict[str, Any]:
    """The summary of a run from its stage results and its metrics; what is missing is said to be.

    Args:
        inner: growths inside the grown arm, whose FLOPs hold what these cost.
    """
    target = inner[-1].plan.target if inner else plan.target
    machine, results, records = config.hardware, run.stage_results(), read_records(run.metrics)
    trained = small_training_record(config, small, plan)
    arms, spent = _arms(config, results), _phases(config, results, records, trained, plan, inner)
    growth = _growth(config, run, plan)
    if config.train.start == "small":  # what it cost is in the arm
        growth = {**_growth(inner[0].config, inner[0].run, inner[0].plan), "operator_flops": 0.0}
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
            "parameters": target.num_parameters,
            "hidden_size": target.dims.hidden_size,
            "num_layers": target.dims.num_layers,
        },
        "growth": growth,
        "inner_growth": [_inner_growth(growth) for growth in inner],
        "arms": arms,
        "target_loss": None,
        "savings": [],
        "savings_by_target": [],
        "phases": spent,
        "cost": cost(spent, machine.watts, machine.grams_co2_per_kwh, measured(run.folder)),
        "equal_tokens": None,
        "equal_flops": None,
        "not_measured": _not_measured(config, results),
        "notes": [],
    }
    curves = {arm["name"]: curve(records, arm["name"]) for arm in arms}
    if curves.get("grown") and curves.get("scratch"):
        summary |= _comparison(curves, operator_flops(run), trained.get("flops"))
        summary["savings_by_target"] = _savings_by_target(curves, _operator_spent(run, inner), trained)
        summary["notes"] += _caveats(arms, summary["equal_tokens"]["tokens"], trained)
    return summary


def operator_flops(run: Run) -> float:
    """What growth itself cost: learning, and building the weights once."""
    results = run.stage_results()
    learning, writing = results.get("learn", {}), results.get("write", {})
    return float(learning.get("flops", 0.0) + writing.get("build_flops", 0.0))


def _operator_spent(run: Run, inner: Sequence[InnerGrowth]) -> Spent:
    """The same in each measure. Growths inside the arm have their FLOPs and time in it, their tokens here."""
    learning = run.stage_results().get("learn", {})
    tokens = [growth.run.stage_results().get("learn", {}).get("tokens", 0) for growth in inner]
    return Spent(operator_flops(run), learning.get("tokens", 0) + sum(tokens), learning.get("wall_s", 0.0))


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
        "modules": verified.get("modules"),
        "loss_at_start": learned.get("start_loss"),
        "loss_after_learning": learned.get("best_loss"),
        "operator_flops": operator_flops(run),
        "operator_parameters": learned.get("parameters", 0),
        "learned_against": learned.get("small"),
        "reused": learned.get("reused"),
    }


def _inner_growth(growth: InnerGrowth) -> dict[str, Any]:
    """A growth inside the arm; loss, tokens, FLOPs and seconds of the arm right after it, once it is done."""
    dims, evaluated = growth.plan.target.dims, growth.run.stage_results().get("evaluate", {})
    return {
        **_growth(growth.config, growth.run, growth.plan),
        "at_tokens": growth.at_tokens,
        "target": growth.config.target.name,
        "optimizer_state": growth.config.operator.optimizer_state,
        "parameters": growth.plan.target.num_parameters,
        "hidden_size": dims.hidden_size,
        "num_layers": dims.num_layers,
        "loss_before": evaluated.get("loss_before"),
        "after": evaluated.get("after"),
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
        "short": ("short", "from scratch, short schedule"),
        "continue": ("continue", "small model trained on"),
    }
    measured = ("tokens", "flops", "wall_s", "peak_lr")
    return [
        {
            "name": arm,
            "label": label,
            "final_loss": results[stage]["loss"],
            "accuracy": results[stage].get("accuracy"),
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
    within_tokens = {
        name: loss_at(points, tokens=tokens) for name, points in curves.items() if name != "continue"
    }
    rows = savings(grown, scratch, operator_flops=operator, small_flops=small)
    return {
        "target_loss": {"value": scratch[-1].loss, "of": "scratch"},
        "savings": [row.as_json() for row in rows],
        "equal_tokens": {"tokens": tokens, "losses": within_tokens},
        "equal_flops": {"flops": budget, "losses": within_flops},
    }


def _savings_by_target(
    curves: dict[str, list[Point]], operator: Spent, trained: dict[str, Any]
) -> list[dict[str, Any]]:
    """To losses of the scratch run on its way, and to the final one of its control with a short schedule."""
    small = Spent(trained.get("flops"), trained.get("tokens"), trained.get("wall_s"))
    aims = {"scratch": TARGET_SHARES, "short": (1.0,)}
    return [
        row.as_json()
        for name, shares in aims.items()
        for row in savings_by_target(
            curves["grown"], curves.get(name, []), targets(curves.get(name, []), name, shares),
            operator=operator, small=small,
        )
    ]  # fmt: skip


def _phases(
    config: GrowConfig, results: dict[str, Any], records: list[dict[str, Any]], trained: dict[str, Any],
    plan: GrowthPlan, inner: Sequence[InnerGrowth],
) -> dict[str, Any]:  # fmt: skip
    target, length = inner[-1].plan.target if inner else plan.target, config.data.sequence_length
    families = {"scratch": target, "short": target, "continue": plan.small}
    families |= {} if inner else {"grown": target}  # several models, one after another
    forward = {arm: model_flops(family, length) for arm, family in families.items()}
    kept = config.train.activation_checkpointing == "none"
    again = {
        arm: 0.0 if kept else recomputed_flops(family, length) / forward[arm].training
        for arm, family in families.items()
    }
    return phases(results, trained, records, {arm: flops.forward for arm, flops in forward.items()}, again)


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
    scratch = scratch_training(config)
    if "short" not in results and scratch.max_tokens > config.train.max_tokens:
        missing.append(
            "the same scratch run with a schedule as short as the grown run's (add short to stages)"
        )
    missing.append("several seeds")
    if not (config.target.scratch_lr_is_tuned and scratch.lr == config.target.scratch_lr):
        missing.append(f"whether {scratch.lr:g} is the best peak rate from scratch: no sweep brackets it")
    if scratch.schedule == "constant" or scratch.final_lr_ratio > 0.1:
        missing.append("a scratch run whose learning rate decays to the end")
    return missing
