"""A tiny arm to train in tests: synthetic windows, a fresh model; also the program that torchrun starts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core import distributed
from ligo.families.base import family_of
from ligo.tracking.base import Tracker, Trackers
from ligo.tracking.jsonl import MEASURED, JsonlTracker, read_records
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.engines import make_engine
from ligo.training.loop import Progress, train
from ligo.training.models import fresh_model
from ligo.training.objectives import make_objective
from tests.conftest import tiny_config

LENGTH = 16
CONFIG = TrainConfig(
    max_tokens=8 * 128,
    batch_tokens=128,
    lr=5e-3,
    evaluate_every=4,
    save_every=4,
    engine="torch",
    warmup_fraction=0.25,
)


class SyntheticWindows:
    """Windows that are a pure function of the step."""

    def __getitem__(self, step: int) -> np.ndarray:
        return np.random.default_rng(step).integers(0, 96, (8, LENGTH + 1))


VALIDATION = [
    np.random.default_rng(1000 + i).integers(0, 96, (n, LENGTH + 1)) for i, n in enumerate((8, 8, 3))
]


def run_arm(
    folder: Path,
    config: TrainConfig = CONFIG,
    stage: int = 1,
    tracker: Tracker | None = None,
    model_config: dict[str, Any] | None = None,
    keys: dict[str, Any] | None = None,
    **options: Any,
) -> Progress:
    """Train the tiny arm in `folder`, going on from its checkpoints; metrics go to metrics.jsonl.

    `options` are those of `train`.
    """
    model_config = model_config or tiny_config()
    folder.mkdir(parents=True, exist_ok=True)
    shape = batch_shape(config, LENGTH, distributed.world_size())
    # ZeRO-3 shards nothing below this threshold otherwise
    keys = keys or {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10}}
    objective = make_objective(family_of(model_config))
    engine = make_engine(fresh_model(model_config, seed=0), objective, config, shape, keys)
    try:
        return train(
            engine,
            arm="grown",
            batches=SyntheticWindows(),
            validation=VALIDATION,
            config=config,
            flops_per_token=10.0,
            tracker=tracker or JsonlTracker(folder / "metrics.jsonl", folder / "summary.json"),
            checkpoints=folder / "checkpoints",
            config_hash="test",
            **options,
        )
    finally:
        engine.close()


def records(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what is measured."""
    return [{k: v for k, v in r.items() if k not in MEASURED} for r in read_records(folder / "metrics.jsonl")]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for zero_stage in (0, 1, 2, 3):
        deepspeed = replace(CONFIG, engine="deepspeed", micro_batch_tokens=32)
        folder = out / f"zero{zero_stage}"
        run_arm(folder, deepspeed, zero_stage, None if distributed.is_main() else Trackers([]))
    distributed.stop()
