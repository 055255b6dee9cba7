"""The tables of runs: for the terminal, and as Markdown for papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ligo.core import units
from ligo.reports.collect import ARM_LABELS, RunRecord
from ligo.reports.ledger import TARGET_COLUMNS, target_rows
from ligo.reports.savings import SAVINGS_COLUMNS, answer, controls, savings
from ligo.reports.words import finite, loss_text, or_absent

_ARM_COLUMNS = ("arm", "final loss", "tokens", "compute", "wall time", "peak rate")
_EXPLANATION = (
    "Losses in nats per prediction (a token, an image) on the validation set. V* is the final loss of the run from scratch, "
    "and the grown run is counted up to the first evaluation from which on it stays at or below V*. One run, one seed: no interval."
)


def savings_table_text(summary: Mapping[str, Any]) -> str:
    """The savings at V* and at the losses before it for a terminal, followed by the answer."""
    lines = _aligned(SAVINGS_COLUMNS, [saving.cells() for saving in savings(summary)])
    further = _aligned(TARGET_COLUMNS, target_rows(summary))
    return "\n".join([*lines, "", *further, *([""] if further else []), answer(summary)]).lstrip("\n")


def runs_markdown(runs: Sequence[RunRecord]) -> str:
    """Arms and savings of each run, with the finding above and what was not measured below."""
    parts = []
    for run in runs:
        rows = [saving.cells() for saving in savings(run.summary)]
        parts += [f"## {run.name}", answer(run.summary), markdown_table(_ARM_COLUMNS, _arm_rows(run))]
        parts += [markdown_table(SAVINGS_COLUMNS, rows)] if rows else []
        parts += controls(run.summary)
        missing = [f"- {what}" for what in run.summary.get("not_measured") or ()]
        parts += ["Not measured:", "\n".join(missing)] if missing else []
    return "\n\n".join([*parts, _EXPLANATION]) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
        for row in [columns, ["---"] * len(columns), *rows]
    )


def arms_of(run: RunRecord) -> list[dict[str, Any]]:
    """One row per arm of the summary; where a model was grown, the grown and the scratch arm stand there even when absent."""
    rows = [dict(row) for row in run.summary.get("arms") or ()]
    for name in () if "tuning" in run.summary else ("grown", "scratch"):
        if all(row.get("name") != name for row in rows):
            rows.append({"name": name, "label": ARM_LABELS[name]})
    for row in rows:
        for key in ("equal_tokens", "equal_flops"):
            row[key] = ((run.summary.get(key) or {}).get("losses") or {}).get(row.get("name"))
    return rows


def _arm_rows(run: RunRecord) -> list[list[str]]:
    return [
        [
            str(arm.get("label") or arm.get("name")),
            loss_text(arm.get("final_loss")),
            or_absent(finite(arm.get("tokens")), units.si),
            or_absent(finite(arm.get("flops")), units.flops),
            or_absent(finite(arm.get("wall_s")), units.seconds),
            or_absent(finite(arm.get("peak_lr")), "{:.3g}".format),
        ]
        for arm in arms_of(run)
    ]


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in lines of one width; nothing without rows."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    table = [columns, ["-" * width for width in widths], *rows] if rows else []
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in table
    ]
