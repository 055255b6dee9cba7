"""RMS and variance of each module's weights before and after growth: a table, and a chart of the RMS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ligo.reports.style import ARM_COLOURS, plain

MODULE_COLUMNS = ("module", "RMS, small", "RMS, grown", "ratio", "variance, small", "variance, grown")
_FRESH = "drawn fresh"


def module_rows(modules: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One row per module, in the order of MODULE_COLUMNS."""
    rows = []
    for module in modules:
        small, grown = module["small"], module["grown"]
        ratio = grown["rms"] / small["rms"] if small and small["rms"] else None
        rows.append(
            [
                module["module"],
                _FRESH if small is None else _number(small["rms"]),
                _number(grown["rms"]),
                "" if ratio is None else f"{ratio:.3f}",
                "" if small is None else _number(small["variance"]),
                _number(grown["variance"]),
            ]
        )
    return rows


def module_chart(modules: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The RMS of each module as two dots on one line, as Bokeh's JSON; None where nothing was measured."""
    shown = [module for module in modules if module["grown"]["rms"] > 0]
    if not shown:
        return None
    from bokeh.embed import json_item
    from bokeh.models import ColumnDataSource, CustomJSTickFormatter, FixedTicker, HoverTool
    from bokeh.plotting import figure

    names = [module["module"] for module in shown]
    before = [(module["small"] or {}).get("rms") or float("nan") for module in shown]
    after = [module["grown"]["rms"] for module in shown]
    source = ColumnDataSource({"module": names, "small": before, "grown": after})
    plot = figure(
        name="modules",
        y_range=names[::-1],
        x_axis_type="log",
        height=90 + 24 * len(names),
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        x_axis_label="RMS of the weights (logarithmic)",
    )
    plot.segment(
        "small",
        "module",
        "grown",
        "module",
        source=source,
        line_width=2,
        line_color=ARM_COLOURS["grown"],
        line_alpha=0.4,
    )
    dots = [
        plot.scatter(key, "module", source=source, size=11, color=colour, legend_label=label, marker=marker)
        for key, colour, label, marker in (
            ("small", ARM_COLOURS["small"], "small", "circle"),
            ("grown", ARM_COLOURS["grown"], "grown", "diamond"),
        )
    ]
    plot.add_tools(
        HoverTool(
            renderers=dots,
            tooltips=[("module", "@module"), ("small", "@small{0.0000}"), ("grown", "@grown{0.0000}")],
        )
    )
    plot.add_layout(plot.legend[0], "above")
    plot.xaxis.ticker = FixedTicker(ticks=_ticks([*before, *after]))
    plot.xaxis.formatter = CustomJSTickFormatter(code="return tick.toPrecision(1)")
    plain(plot)
    return dict(json_item(plot))


def _ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten in the range of these values; powers alone where that is many."""
    known = [value for value in values if math.isfinite(value)]
    low, high = math.log10(min(known)), math.log10(max(known))
    mantissas = (1, 2, 5) if high - low < 2.5 else (1,)
    return [m * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for m in mantissas]


def _number(value: float) -> str:
    return f"{value:.3g}"
