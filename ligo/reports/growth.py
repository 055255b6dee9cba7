"""How one model became another, for the page: the facts, the plan, and charts of the weights and of the operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ligo.reports.collect import RunRecord
from ligo.reports.heatmaps import heat_maps
from ligo.reports.modules import module_chart, module_rows

_MOST_CHARTS = 16
"""Of weights on one page; where more runs stand side by side, their tables say it."""


def growth_facts(
    plan: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, Any]:
    """What a summary says of a growth, of a run that wrote none: as it stands in plan.json, stages.json and config.yaml."""
    learned, written, verified = (results.get(stage, {}) for stage in ("learn", "write", "verify"))
    operator, exactness = config.get("operator", {}), plan.get("exactness", {})
    small = results.get("train", {}).get("small_training", {})
    parameters, settings = plan.get("parameters", {}), plan.get("target", {})
    name = operator.get("name")
    return {
        "small": {
            "name": config.get("small", {}).get("name"),
            "parameters": parameters.get("small"),
            "train_flops": small.get("flops"),
            "train_tokens": small.get("tokens"),
            "loss": small.get("loss"),
        },
        "target": {
            "name": config.get("target", {}).get("name"),
            "parameters": parameters.get("target"),
            "hidden_size": settings.get("hidden_size", settings.get("n_embd")),
            "num_layers": plan.get("layers", {}).get("target"),
        },
        "growth": {
            "operator": f"{name}: {learned['chosen']}" if learned.get("chosen") else name,
            "start": operator.get("init"),
            "exact": exactness.get("exact") and not learned.get("best_step"),
            "verdict": exactness.get("verdict"),
            "max_logit_difference": verified.get("max_logit_difference"),
            "modules": verified.get("modules"),
            "loss_at_start": learned.get("start_loss"),
            "loss_after_learning": learned.get("best_loss"),
            "operator_flops": learned.get("flops", 0.0) + written.get("build_flops", 0.0),
            "operator_wall_s": learned.get("wall_s", 0.0),
            "operator_parameters": learned.get("parameters", 0),
            "learned_against": learned.get("small"),
            "reused": learned.get("reused"),
        },
    }


def growth_section(run: RunRecord, number: int, num_runs: int, charts: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a run's growth.

    Args:
        number: of the section, out of `num_runs`; it makes the ids of its charts its own.
        charts: by id, as Bokeh's JSON; those of this section are added.
    """
    small, target = run.plan.get("small"), run.plan.get("target")
    changed: list[tuple[str, Any, Any]] = []
    if isinstance(small, dict) and isinstance(target, dict):
        changed = [
            (key, small.get(key, "absent"), new) for key, new in target.items() if small.get(key) != new
        ]
    found, changes = heat_maps(run.folder, num_runs), None
    if found is not None:
        changes = {"id": f"operator-{number}", "left_out": found.left_out}
        charts[f"operator-{number}"] = found.item
    return {
        "summary": run.summary,
        "plan": run.plan,
        "changed": changed,
        "modules": list(_modules(run, number, charts if num_runs <= _MOST_CHARTS else None)),
        "changes": changes,
    }


def _modules(run: RunRecord, number: int, charts: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Of the growth before training, or the first one inside it, and of those inside training."""
    inner = list(run.summary.get("inner_growth") or ())
    first = [run.summary.get("growth") or {}]
    if inner and first[0].get("modules") == inner[0].get("modules"):
        first = []  # train.start=small: the summary's growth is the first inside
    for place, growth in enumerate([*first, *inner]):
        modules, key = growth.get("modules") or (), f"modules-{number}-{place}"
        chart = None if charts is None else module_chart(modules)
        if charts is not None and chart is not None:
            charts[key] = chart
        if modules:
            yield {
                "id": key if chart is not None else None,
                "rows": module_rows(modules),
                "at_tokens": growth.get("at_tokens"),
            }
