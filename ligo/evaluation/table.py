"""Rows as a table: a line for each task and metric, a column for each model."""

from __future__ import annotations

from collections.abc import Sequence

from ligo.evaluation.registry import Row


def markdown(rows: Sequence[Row]) -> str:
    """A table in Markdown whose columns are also straight when read as text."""
    models = list(dict.fromkeys(row.model for row in rows))
    lines = list(dict.fromkeys((row.task, row.metric, row.count) for row in rows))
    cells = {((row.task, row.metric, row.count), row.model): _cell(row) for row in rows}
    table = [["task", "metric", "n", *models]]
    table += [
        [line[0], line[1], f"{line[2]:,}", *(cells.get((line, model), "") for model in models)]
        for line in lines
    ]
    widths = [max(3, *(len(line[column]) for line in table)) for column in range(len(table[0]))]
    rule = ["-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(_line(line, widths) for line in [table[0], rule, *table[1:]]) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _cell(row: Row) -> str:
    text = f"{row.value:.4f}" if abs(row.value) < 1000 else f"{row.value:,.0f}"
    if row.interval is not None:
        return f"{text} [{row.interval[0]:.4f}, {row.interval[1]:.4f}]"
    return text if row.standard_error is None else f"{text} ± {row.standard_error:.4f}"
