"""The options of the `tracking` group, and the trackers that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.core.checks import check_choice
from ligo.tracking.artifacts import Fingerprint
from ligo.tracking.base import Tracker, Trackers
from ligo.tracking.jsonl import JsonlTracker
from ligo.tracking.wandb import WandbTracker

_MODES = ("offline", "online", "off")
_ARTIFACTS = ("reference", "files", "off")


@dataclass(kw_only=True)
class TrackingConfig:
    """metrics.jsonl is always written; W&B mirrors it."""

    wandb: str = "offline"
    """offline, online or off. Online without a login or a network stays offline and says so."""
    project: str = "ligo"
    """W&B project."""
    artifacts: str = "reference"
    """What W&B keeps of models and operators: reference (name, fingerprint, sizes and run; nothing is copied or
    sent, at any size), files (they are sent whole, from where they lie), or off."""


def check(config: TrackingConfig) -> None:
    """Refuse an unknown mode.

    Raises:
        ConfigError: an option is not one of those that there are.
    """
    check_choice("tracking.wandb", config.wandb, _MODES)
    check_choice("tracking.artifacts", config.artifacts, _ARTIFACTS)


def start_trackers(
    config: TrackingConfig, folder: Path, *, study: str, name: str, run_config: dict[str, Any], fingerprint: Fingerprint,
) -> Trackers:  # fmt: skip
    """Open the trackers of a run in its folder (rank 0 only).

    Args:
        fingerprint: of a model folder, for its artifact.

    Raises:
        ConfigError: an unknown mode, or wandb is not installed.
    """
    check(config)
    trackers: list[Tracker] = [JsonlTracker(folder / "metrics.jsonl", folder / "summary.json")]
    if config.wandb != "off":
        trackers.append(
            WandbTracker(
                folder, mode=config.wandb, project=config.project, group=study, name=name, config=run_config,
                artifacts=config.artifacts, fingerprint=fingerprint,
            )
        )  # fmt: skip
    return Trackers(trackers)
