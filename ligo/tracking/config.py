"""The options of the `tracking` group, and the trackers that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.core.errors import ConfigError
from ligo.tracking.base import Tracker, Trackers
from ligo.tracking.jsonl import JsonlTracker
from ligo.tracking.wandb import WandbTracker

_MODES = ("offline", "online", "off")


@dataclass(kw_only=True)
class TrackingConfig:
    """metrics.jsonl is always written; W&B mirrors it."""

    wandb: str = "offline"
    """offline, online or off."""
    project: str = "ligo"
    """W&B project."""


def check(config: TrackingConfig) -> None:
    """Refuse an unknown mode.

    Raises:
        ConfigError: `wandb` is not one of the modes.
    """
    if config.wandb not in _MODES:
        raise ConfigError(
            f"tracking.wandb={config.wandb} is not one of {', '.join(_MODES)}.\n  Try: tracking.wandb=offline"
        )


def start_trackers(
    config: TrackingConfig, folder: Path, *, study: str, name: str, run_config: dict[str, Any]
) -> Trackers:
    """Open the trackers of a run in its folder (rank 0 only).

    Raises:
        ConfigError: an unknown mode, or wandb is not installed.
    """
    check(config)
    trackers: list[Tracker] = [JsonlTracker(folder / "metrics.jsonl", folder / "summary.json")]
    if config.wandb != "off":
        trackers.append(
            WandbTracker(
                folder, mode=config.wandb, project=config.project, group=study, name=name, config=run_config
            )
        )
    return Trackers(trackers)
