"""What a learned operator changed, as heat maps: coefficients of layers, and how heads are mixed.

`operator.safetensors` holds what was learned on top of the start, so that is what is drawn: zero everywhere is the start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ligo.checkpoint.load import open_tensors
from ligo.core.files import from_json
from ligo.reports.style import plain

MOST_MAPS = 24
"""Of one run."""
_PAGE_MAPS = 48
"""Of all runs on a page together, which keeps it small and quickly made."""
_OPERATOR_FILE = "operator.safetensors"
_HEADS = re.compile(r"(expand|reduce)\.((?:kv_)?heads.*)\.values")


@dataclass(frozen=True)
class Change:
    """The learned change of one map, [target, small]; drawn with the first target row at the bottom."""

    name: str
    rows: str
    columns: str
    values: np.ndarray


@dataclass(frozen=True)
class HeatMaps:
    """All of a run, as Bokeh's JSON."""

    item: dict[str, Any]
    left_out: int


def learned_changes(folder: Path) -> list[Change]:
    """Of the layers and heads of a run's operator; nothing where none was learned, or nothing better than the start.

    Head maps in forms other than dense are not matrices of heads, and are left out.
    """
    path = folder / _OPERATOR_FILE
    if not path.is_file():
        return []
    try:
        with open_tensors(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys()) if _is_drawn(name)}
        growth, learning = (from_json(metadata.get(key, "{}")) for key in ("growth", "learning"))
    except ValueError:
        return []  # the report is about more than this file
    if learning.get("best_step") == 0:
        return []
    changes = []
    for name, values in tensors.items():
        heads = _HEADS.fullmatch(name)
        if heads is None:
            changes.append(Change(name.removeprefix("depth."), "target layer", "small layer", values))
        elif growth.get("operator.form") == "dense":
            changes.append(Change(f"{heads[2]}, {heads[1]}", "target head", "small head", values))
    return changes


def heat_maps(folder: Path, num_runs: int = 1) -> HeatMaps | None:
    """The changes that a run's operator learned, each coloured between its own largest values; None without any.

    Args:
        num_runs: that share the page.
    """
    changes = learned_changes(folder)
    if not changes:
        return None
    from bokeh.embed import json_item
    from bokeh.models import InlineStyleSheet, Row

    most = max(1, min(MOST_MAPS, _PAGE_MAPS // num_runs))
    plots = [_plot(change) for change in changes[:most]]
    wraps = InlineStyleSheet(css=":host { flex-wrap: wrap }")  # on a narrow screen
    return HeatMaps(dict(json_item(Row(children=plots, stylesheets=[wraps]))), max(0, len(changes) - most))


def _is_drawn(name: str) -> bool:
    return name.startswith("depth.") or _HEADS.fullmatch(name) is not None


def _plot(change: Change) -> Any:
    from bokeh.models import BasicTicker, HoverTool, LinearColorMapper
    from bokeh.palettes import RdBu11
    from bokeh.plotting import figure

    rows, columns = change.values.shape
    largest = float(np.abs(change.values).max()) or 1.0
    plot = figure(
        title=f"{change.name} (± {largest:.2g})",
        width=225,
        height=225,
        tools="",
        x_range=(-0.5, columns - 0.5),
        y_range=(-0.5, rows - 0.5),
        x_axis_label=change.columns,
        y_axis_label=change.rows,
        toolbar_location=None,
    )
    plot.image(
        image=[change.values.astype(np.float32)],
        x=-0.5,
        y=-0.5,
        dw=columns,
        dh=rows,
        color_mapper=LinearColorMapper(palette=RdBu11, low=-largest, high=largest),
    )
    plot.add_tools(HoverTool(tooltips=[("change", "@image{0.0000}")]))
    plot.title.text_font_size = "11px"
    for axis in (plot.xaxis, plot.yaxis):
        axis.ticker = BasicTicker(desired_num_ticks=4, min_interval=1)
    plain(plot, "10px")
    plot.grid.visible = False
    return plot
