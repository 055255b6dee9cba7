"""Weights & Biases as a mirror of metrics.jsonl: offline unless told otherwise, and told of no place, machine or secret."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

from ligo.core.errors import ResourceError, require
from ligo.core.redact import published, redact


class WandbTracker:
    """One W&B run per ligo run; metrics are named `<arm>/<metric>`."""

    def __init__(
        self, folder: Path, *, mode: str, project: str, group: str, name: str, config: dict[str, Any],
        wandb_id: str | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            wandb_id: None: that of the folder, so that a later start is the same run.
        """
        if not os.access(folder, os.W_OK):  # W&B would take a folder for passing files, and say nothing
            raise ResourceError(
                f"cannot write {folder}.\n  Try: ls -ld {folder}, which shows who may; or a copy of it"
            )
        wandb = require("wandb", extra="wandb", why=f"tracking.wandb={mode}")
        os.environ.setdefault("WANDB_SILENT", "true")
        warnings.filterwarnings("ignore", module="wandb")
        self._run = wandb.init(
            mode=mode,
            project=redact(project),
            group=redact(group),
            name=redact(name),
            id=wandb_id or hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12],
            resume="allow",
            config=published(config),
            dir=str(folder),
            # it would send what is printed, the command line, the program's path and the names of user and machine
            settings=wandb.Settings(
                host="", x_disable_meta=True, disable_git=True, disable_code=True, console="off"
            ),
            job_type="grow",
        )
        for arm in ("small", "learn", "grown", "scratch", "short", "continue"):
            self._run.define_metric(f"{arm}/tokens")
            self._run.define_metric(f"{arm}/*", step_metric=f"{arm}/tokens")

    def log(self, record: dict[str, Any]) -> None:
        arm = record["arm"]
        values = {key: value for key, value in record.items() if key != "arm" and value is not None}
        self._run.log({f"{arm}/{key}": value for key, value in values.items()})

    def rewind(self, arm: str, step: int) -> None:
        pass  # a mirror cannot unsay; metrics.jsonl is rewritten, and `python -m ligo.sync` mirrors that

    def summary(self, values: dict[str, Any]) -> None:
        self._run.summary.update(published(values))

    def finish(self) -> None:
        self._run.finish()
