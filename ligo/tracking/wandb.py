"""Weights & Biases as a mirror of metrics.jsonl: offline unless told otherwise."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

from ligo.core.errors import require


class WandbTracker:
    """One W&B run per ligo run; metrics are named `<arm>/<metric>`."""

    def __init__(
        self, folder: Path, *, mode: str, project: str, group: str, name: str, config: dict[str, Any]
    ) -> None:
        wandb = require("wandb", extra="wandb", why=f"tracking.wandb={mode}")
        os.environ.setdefault("WANDB_SILENT", "true")
        warnings.filterwarnings("ignore", module="wandb")
        self._run = wandb.init(
            mode=mode,
            project=project,
            group=group,
            name=name,
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[
                :12
            ],  # a later start is the same run
            resume="allow",
            config=config,
            dir=str(folder),
            job_type="grow",
        )
        for arm in ("small", "learn", "grown", "scratch", "continue"):
            self._run.define_metric(f"{arm}/tokens")
            self._run.define_metric(f"{arm}/*", step_metric=f"{arm}/tokens")

    def log(self, record: dict[str, Any]) -> None:
        arm = record["arm"]
        self._run.log({f"{arm}/{key}": value for key, value in record.items() if key != "arm"})

    def rewind(self, arm: str, step: int) -> None:
        pass  # a mirror cannot unsay; metrics.jsonl is rewritten

    def summary(self, values: dict[str, Any]) -> None:
        self._run.summary.update(values)

    def finish(self) -> None:
        self._run.finish()
