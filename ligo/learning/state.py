"""Learned maps on disk: `operator.safetensors`, with what they fit and what learning them cost.

Maps are functions of shapes, start and form alone, so those that were learned on one checkpoint can be taken for another
of the same shapes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ligo.checkpoint.headers import DamagedFile, sealed, with_room_for_seal
from ligo.checkpoint.load import open_tensors
from ligo.checkpoint.strict_json import parse_json
from ligo.core.errors import CheckpointError, disk_full
from ligo.growth.plan import GrowthPlan
from ligo.learning.fit import LearnedOperator
from ligo.learning.functional import LearnedMaps, detached
from ligo.operators.config import OperatorConfig
from ligo.operators.maps import GrowthMaps

OPERATOR_FILE = "operator.safetensors"


@dataclass(frozen=True)
class LearningRecord:
    """What learning took where it was done, and what it gave there; kept beside the maps."""

    best_step: int
    """0: nothing that was learned was better than the start."""
    start_loss: float
    best_loss: float
    flops: float
    tokens: int
    parameters: int
    small: str
    """How the small model was held (`learn.small`)."""


def growth_fields(plan: GrowthPlan, config: OperatorConfig) -> dict[str, Any]:
    """What maps must agree on with the growth that they are used for, each under the name of what sets it."""
    small, target = plan.small, plan.target
    fields = {
        "small family": small.name,
        "target family": target.name,
        **{f"small {size}": value for size, value in asdict(small.dims).items()},
        **{f"target {size}": value for size, value in asdict(target.dims).items()},
        "rotary coordinates of a head": max((space.rotary for space in small.spaces.values()), default=0),
        "layer map": plan.maps.layers.describe(),
        "depth coefficients": "learned" if config.depth_lr else "as they start",
    }
    chosen = ["init", "width", "depth", "form", "per_layer"]
    chosen += ["rank"] if config.form in ("low_rank", "vera") else []
    return fields | {f"operator.{key}": getattr(config, key) for key in chosen}


def save_operator(path: Path, plan: GrowthPlan, config: OperatorConfig, learned: LearnedOperator) -> None:
    """Write the best maps' parameters, whole or not at all.

    Raises:
        ResourceError: the disk is full.
    """
    record = LearningRecord(
        best_step=learned.best_step,
        start_loss=learned.start_loss,
        best_loss=learned.best_loss,
        flops=learned.flops,
        tokens=learned.tokens,
        parameters=learned.num_parameters,
        small=learned.small,
    )
    metadata = {"growth": json.dumps(growth_fields(plan, config)), "learning": json.dumps(asdict(record))}
    maps = {name: values.contiguous() for name, values in learned.state.items()}
    _write(path, sealed(save(maps, with_room_for_seal(metadata))))


def load_maps(path: Path, plan: GrowthPlan, config: OperatorConfig) -> GrowthMaps:
    """The maps that were learned; the start's own where nothing learned was better.

    Raises:
        CheckpointError: the file is missing, broken, or belongs to another growth; what differs is named.
    """
    record = check_fits(path, plan, config)
    if record.best_step == 0:
        return plan.maps
    learned = LearnedMaps(plan, config)
    try:
        learned.load_state_dict(_read(path)[1])
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return detached(learned())


def find_operator(where: str) -> Path:
    """The operator file that `learn.operator` names: itself, or in a run folder.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(where).expanduser()
    path = path / OPERATOR_FILE if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(
            f"learn.operator={where} is no file, and no run folder with an {OPERATOR_FILE} in it.\n"
            "  Try: the folder of a run that has learned an operator"
        )
    return path


def check_fits(path: Path, plan: GrowthPlan, config: OperatorConfig) -> LearningRecord:
    """Whether maps were learned for such a growth; what learning them took.

    Raises:
        CheckpointError: the file is broken, or its maps fit another growth; every field that differs is named.
    """
    metadata, _ = _read(path)
    try:
        theirs, learning = (parse_json(metadata[part].encode()) for part in ("growth", "learning"))
        record = LearningRecord(**learning)
        numbers = [value for key, value in asdict(record).items() if key != "small"]
        if not isinstance(theirs, dict) or not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("fields have other forms")
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"it does not say what its maps were learned for ({error})") from error
    ours = growth_fields(plan, config)
    differing = [
        f"{field} ({theirs.get(field)} there, {ours.get(field)} here)"
        for field in {**ours, **theirs}
        if theirs.get(field) != ours.get(field)
    ]
    if differing:
        raise CheckpointError(
            f"the operator {path.name} was learned for another growth: {'; '.join(differing)}.\n"
            "  Try: the options that it was learned with, or learn it again in another run.dir"
        )
    return record


def reuse_operator(source: Path, path: Path, plan: GrowthPlan, config: OperatorConfig) -> LearningRecord:
    """Copy an operator that was learned elsewhere to `path`; what learning it took there.

    Raises:
        CheckpointError: as `check_fits` does.
        ResourceError: the disk is full.
    """
    record = check_fits(source, plan, config)
    _write(path, source.read_bytes())
    return record


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with open_tensors(path) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except DamagedFile as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, why: object) -> CheckpointError:
    return CheckpointError(f"cannot read the operator {path.name}: {why}.\n  Try: stages=[learn,...] again")


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise disk_full(error, path) from error
