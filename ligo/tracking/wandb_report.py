"""A study as a W&B report: its question, its table, and its loss curves over the W&B runs of its finished runs.

The report is built without a login, as JSON that wandb-workspaces reads back; publishing it takes one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ligo.core.errors import ConfigError, require
from ligo.core.files import write_json

_AXES = {"flops": "FLOPs", "tokens": "tokens", "wall_s": "wall time (s)"}
_MARGIN = (
    "Curves are W&B's own, of the runs in the table below them, grouped by arm: mean and range over seeds."
)


def study_report(name: str, *, question: str, table: str, runs: Sequence[str], project: str) -> Any:
    """Build the report.

    Args:
        table: of the arms over their seeds, and what it means, as Markdown.
        runs: names of the W&B runs that are compared.

    Returns:
        A `wandb_workspaces.reports.v2.Report`.

    Raises:
        ConfigError: wandb-workspaces is not installed.
    """
    reports = _library()
    panels = [
        reports.LinePlot(
            title=f"{loss} loss against {label}",
            x=axis,
            y=[f"{key}/loss"],
            title_x=label,
            title_y="nats per prediction",
            layout=reports.Layout(x=8 * column, y=8 * row, w=8, h=8),
        )
        for row, (key, loss) in enumerate({"eval": "validation", "train": "training"}.items())
        for column, (axis, label) in enumerate(_AXES.items())
    ]
    # The project is named when the report is published: with it, building asks the server.
    compared = reports.Runset(
        name=name, filters=f"Metric('Name') in {list(runs)}", groupby=["config.run.name", "JobType"]
    )
    return reports.Report(
        project=project,
        entity="",
        title=f"study {name}",
        description=question,
        blocks=[
            reports.H2(text="Arms over seeds"),
            reports.MarkdownBlock(text=table),
            reports.H2(text="Loss curves"),
            reports.P(text=_MARGIN),
            reports.PanelGrid(runsets=[compared], panels=panels),
        ],
    )


def write_report(report: Any, path: Path) -> Path:
    """Write the report as the JSON that W&B keeps of it; give back `path`.

    Raises:
        ValueError: wandb-workspaces does not read back what it wrote.
        ResourceError: the file cannot be written.
    """
    text = as_json(report)
    again = as_json(type(report)._from_model(type(report._to_model()).model_validate_json(text)))
    if json.loads(again) != json.loads(text):
        raise ValueError("wandb-workspaces reads another report than it wrote")
    write_json(path, json.loads(text))
    return path


def as_json(report: Any) -> str:
    """The report with its view; there is no public way to it without publishing."""
    return str(report._to_model().model_dump_json(by_alias=True, exclude_none=True))


def publish(report: Any) -> str:
    """Save the report to W&B, in the project and entity of the login; its address.

    Raises:
        ConfigError: W&B refuses it.
    """
    wandb = require("wandb", extra="wandb", why="publishing a report")
    try:
        report.entity = wandb.Api().default_entity
        for block in report.blocks:
            for runset in getattr(block, "runsets", ()):
                runset.entity, runset.project = report.entity, report.project
        report.save()
    except (wandb.errors.Error, ValueError) as error:
        raise ConfigError(
            f"W&B does not take the report: {error}\n  Try: python -m ligo.sync of the study's runs first"
        ) from error
    return str(report.url)


def _library() -> Any:
    return require("wandb_workspaces.reports.v2", extra="wandb-report", why="a W&B report of a study")
