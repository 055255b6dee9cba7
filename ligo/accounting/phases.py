"""Where the FLOPs of a run went, phase by phase, and what its time comes to in device hours, energy and emissions.

What savings charge are `small`, `operator`, `build` and `training`. Evaluation of the arms and what is computed a second
time in backward passes stand apart: savings leave them out, as both arms pay them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ligo.accounting.energy import assumption, footprint
from ligo.accounting.meter import sources

TRAINED = {"train": "grown", "scratch": "scratch", "short": "short", "continue": "continue"}
"""Stages that train an arm, and its name."""


def phases(
    results: Mapping[str, Mapping[str, Any]],
    small: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    forward_flops: Mapping[str, int],
    recomputed_share: Mapping[str, float],
) -> dict[str, Any]:
    """What each phase took; None where nobody recorded it.

    Args:
        results: of the finished stages.
        small: flops, tokens, wall_s and ranks that the small model was trained with, as far as known.
        records: of metrics.jsonl.
        forward_flops: of each arm's model, per token; an arm that was several models is left out.
        recomputed_share: by arm, FLOPs computed again in backward passes per FLOP of training.
    """
    learning, arms = results.get("learn", {}), {}
    evaluation, recomputation = {}, {"operator": learning.get("recomputed_flops", 0.0)}
    for stage, arm in TRAINED.items():
        if stage not in results:
            continue
        result = results[stage]
        arms[arm] = {key: result.get(key) for key in ("flops", "tokens", "wall_s", "ranks")}
        times = sum(record["arm"] == arm and "eval/loss" in record for record in records)
        tokens, forward = result.get("evaluation_tokens"), forward_flops.get(arm)
        known = tokens is not None and forward is not None
        evaluation[arm] = {"times": times, "flops": times * tokens * forward if known else None}
        share = recomputed_share.get(arm)
        recomputation[arm] = None if share is None else share * result["flops"]
    return {
        "small": {key: small.get(key) for key in ("flops", "tokens", "wall_s", "ranks")},
        "operator": {
            **{key: learning.get(key, 0) for key in ("flops", "tokens", "wall_s")},
            "ranks": learning.get("ranks"),
            "candidates": sorted(learning.get("losses", {})),
        },
        "build": {"flops": results.get("write", {}).get("build_flops", 0.0)},
        "training": arms,
        "evaluation": evaluation,
        "recomputation_flops": recomputation,
    }


def cost(
    phases: Mapping[str, Any],
    watts: float | None,
    grams_co2_per_kwh: float | None,
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Device hours of all training and learning, evaluation and saving left out; energy and emissions, estimated and measured.

    Args:
        measured: by phase, what a meter found (`ligo.accounting.meter`).
    """
    told = sources(measured or {})
    timed = {"small": phases["small"], "operator": phases["operator"], **phases["training"]}
    return {
        "phases": {
            name: asdict(footprint(phase["wall_s"], phase["ranks"], watts, grams_co2_per_kwh))
            for name, phase in timed.items()
            if phase["wall_s"]
        },
        "watts_per_device": watts,
        "grams_co2_per_kwh": grams_co2_per_kwh,
        "measured": dict(measured or {}),
        "assumption": "; ".join(filter(None, (assumption(watts, grams_co2_per_kwh), told))),
    }
