"""Learned maps on disk: `operator.safetensors`, with the plan that they belong to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ligo.core.errors import CheckpointError, disk_full
from ligo.growth.plan import GrowthPlan
from ligo.learning.fit import LearnedOperator
from ligo.learning.functional import LearnedMaps, detached
from ligo.operators.config import OperatorConfig
from ligo.operators.maps import GrowthMaps


def plan_hash(plan: GrowthPlan, config: OperatorConfig) -> str:
    """Digest of the shapes, the start and the form: maps learned under one plan fit no other."""
    described = [plan.as_json(), config.form, config.rank, config.per_layer]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]


def save_operator(path: Path, plan: GrowthPlan, config: OperatorConfig, learned: LearnedOperator) -> None:
    """Write the best maps' parameters, whole or not at all.

    Raises:
        ResourceError: the disk is full.
    """
    metadata = {"plan": plan_hash(plan, config), "best_step": str(learned.best_step)}
    aside = path.with_name(f".{path.name}.tmp")
    try:
        aside.write_bytes(save({k: v.contiguous() for k, v in learned.state.items()}, metadata))
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise disk_full(error, path) from error


def load_maps(path: Path, plan: GrowthPlan, config: OperatorConfig) -> GrowthMaps:
    """The maps that were learned; the start's own where nothing learned was better.

    Raises:
        CheckpointError: the file is missing, broken, or belongs to another plan.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read the operator {path.name}: {error}.\n  Try: stages=[learn,...] again"
        ) from error
    if metadata.get("plan") != plan_hash(plan, config):
        raise CheckpointError(
            f"the operator {path.name} was learned for another growth plan (shapes, start or layer map differ).\n"
            "  Try: the config that it was learned with, or learn it again in another run.dir"
        )
    if metadata["best_step"] == "0":
        return plan.maps
    learned = LearnedMaps(plan, config)
    learned.load_state_dict(state)
    return detached(learned())
