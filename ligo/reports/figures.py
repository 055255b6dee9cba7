"""The loss curves as one interactive Bokeh chart: data here, buttons and colours in the page.

Every source carries the columns `tokens`, `flops` and `wall`; the page switches the x axis by naming
another column, and shows or hides an arm by the name that its renderers share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ligo.core import units
from ligo.reports.collect import Arm, Curve, RunRecord
from ligo.reports.style import ARM_COLOURS, COLOURS, plain

MAX_POINTS = 1000
"""Longer curves are thinned evenly; first and last points stay."""
_PAGE_POINTS = 16_000
"""All curves of a page together, which keeps it below 5 MB."""

_AT_GROWTH = ("tokens", "flops", "wall_s", "loss")
_ORDER = {"grown": 0, "scratch": 1, "short": 2, "small": 4, "learn": 5}
_TICKS_JS = """
const power = tick === 0 ? 0 : Math.max(0, Math.floor(Math.log10(Math.abs(tick)) / 3 + 1e-9))
const prefix = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"][power]
return parseFloat((tick / 1000 ** power).toPrecision(4)) + (prefix ? " " + prefix : "")
"""
_TOOLTIP = (
    """<b>@label</b><br>@what <b>@loss{0.0000}</b><br>@tokens_text tokens<br>@flops_text<br>@wall_text"""
)


@dataclass(frozen=True)
class Line:
    """One entry of the legend: what can be shown and hidden."""

    key: str
    label: str
    colour: str
    style: str
    visible: bool
    only_axis: str = ""


@dataclass(frozen=True)
class Chart:
    """The chart as Bokeh's JSON, and what the page needs to steer it."""

    item: dict[str, Any]
    lines: tuple[Line, ...]
    axes: dict[str, str]


@dataclass(frozen=True)
class _Shift:
    """What was spent before an arm began."""

    flops: float = 0.0
    wall_s: float = 0.0


@cache
def bokeh_script() -> str:
    """Bokeh's core script, with the addresses from which it could load optional parts taken out."""
    from bokeh.resources import Resources

    script = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    script = re.sub(r"""(?<=["'`])https?://(?!www\.w3\.org/)[^\s"'`\\$]*""", "about:blank", script)
    return script.replace("</script", r"<\/script")


def loss_chart(runs: Sequence[RunRecord], groups: Sequence[str] | None = None) -> Chart | None:
    """All arms of all runs in one chart; None when no run has a curve.

    One run: a colour per arm. Several runs: a colour per run, those that were grown first, and a dash pattern per arm.

    Args:
        groups: of a study, what each run is a repetition of. A group has one colour and one entry in the legend, and its
            validation losses alone are drawn.
    """
    arms = [arm for run in runs for arm in run.arms.values()]
    losses = [curve for arm in arms for curve in (arm.validation, arm.training) if len(curve)]
    if not losses:
        return None
    longest = max(
        (float(np.nanmax(curve.wall_s)) for curve in losses if np.isfinite(curve.wall_s).any()), default=0
    )
    second, unit = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if longest >= 2 * s or s == 1)
    targets = [target for run in runs if (target := target_loss(run)) is not None]
    plot = _empty_figure(*_frame(arms, targets))
    most = max(2, min(MAX_POINTS, _PAGE_POINTS // len(losses)))
    lines: list[Line] = []
    entries: dict[tuple[str, str], Line] = {}
    names = groups or [run.name for run in runs]
    named = sorted(zip(names, runs, strict=True), key=lambda found: "grown" not in found[1].arms)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(n for n, _ in named))}
    for name, run in named:
        for arm in sorted(run.arms.values(), key=lambda arm: _ORDER.get(arm.name, 3)):
            if not len(arm.validation) and not len(arm.training):
                continue
            colour = ARM_COLOURS.get(arm.name, COLOURS[(3 + len(lines)) % len(COLOURS)])
            label, style = arm.label, "solid"
            if len(runs) > 1:
                colour, label = colours[name], f"{name}: {arm.label}"
                style = {"grown": "solid", "scratch": "dashed"}.get(arm.name, "dotdash")
            line = entries.setdefault(
                (name, arm.name),
                Line(f"line-{len(lines)}", label, colour, style, not _is_before_training(arm)),
            )
            if line not in lines:
                lines.append(line)
            shift = spent_before(run, arm)
            if groups is None:
                _draw(plot, line, arm.training, "training loss", shift, second, most, faint=True)
            what = "validation loss" if groups is None else f"validation loss of {run.name}"
            _draw(plot, line, arm.validation, what, shift, second, most)
            _mark_crossing(plot, line, run, arm, shift, second)
            _mark_growths(plot, line, run, arm, shift, second)
            small = _saving_row(run, "charged").get("small_flops")
            if arm.name == "grown" and small:
                label = f"{label}, small model charged"
                charged = Line(f"line-{len(lines)}", label, colour, "dotted", True, only_axis="flops")
                lines.append(charged)
                shift = _Shift(shift.flops + small, float("nan"))
                _draw(plot, charged, arm.validation, "validation loss", shift, second, most)
                _mark_crossing(plot, charged, run, arm, shift, second)
    for target in set(targets):
        _draw_target(plot, target, f"V* = {target:.4f}" if len(set(targets)) == 1 else "")
    from bokeh.embed import json_item

    axes = {"flops": "training compute (FLOP)", "tokens": "training tokens", "wall": f"wall time ({unit})"}
    return Chart(dict(json_item(plot)), tuple(lines), axes)


def target_loss(run: RunRecord) -> float | None:
    """V* of a run, or None when it was not measured."""
    value = (run.summary.get("target_loss") or {}).get("value")
    return None if value is None else float(value)


def spent_before(run: RunRecord, arm: Arm) -> _Shift:
    """The grown arm starts where learning the operator ended."""
    if arm.name != "grown":
        return _Shift()
    growth, learn = run.summary.get("growth") or {}, run.arms.get("learn")
    operator = _saving_row(run, "sunk").get("operator_flops")
    if operator is None:
        operator = growth.get("operator_flops")
    walls = (
        [np.nan_to_num(c.wall_s[-1]) for c in (learn.validation, learn.training) if len(c)] if learn else []
    )
    return _Shift(float(operator or 0.0), float(max(walls, default=growth.get("operator_wall_s") or 0.0)))


def _is_before_training(arm: Arm) -> bool:
    """The small model, and learning of operators: learn, and learn-1, learn-2 of growths inside the grown arm."""
    return arm.name.split("-")[0] in ("small", "learn")


def _saving_row(run: RunRecord, word: str) -> dict[str, Any]:
    rows = run.summary.get("savings") or ()
    return next((row for row in rows if word in str(row.get("convention"))), {})


def _frame(arms: Sequence[Arm], targets: Sequence[float]) -> tuple[float, float]:
    """Loss range shown at first: the lowest to what the arms had after a tenth of their way.

    The first steps from scratch would press everything else flat; they are above the frame.
    """
    shown = [arm for arm in arms if not _is_before_training(arm) and len(arm.validation)]
    curves = [arm.validation for arm in shown] or [
        a.validation if len(a.validation) else a.training for a in arms
    ]
    curves = [curve for curve in curves if len(curve)]
    low = min([float(curve.loss.min()) for curve in curves] + list(targets))
    high = max([float(curve.loss[len(curve) // 10 :].max()) for curve in curves] + list(targets))
    margin = 0.06 * ((high - low) or 1.0)
    return low - margin, high + margin


def _empty_figure(low: float, high: float) -> Any:
    from bokeh.models import BasicTicker, CustomJSTickFormatter, DataRange1d, HoverTool
    from bokeh.plotting import figure

    plot = figure(
        name="losses",
        height=440,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag=None,
        x_range=DataRange1d(only_visible=True, range_padding=0.03),
        y_range=(low, high),
        y_axis_label="loss (nats per prediction)",
        output_backend="canvas",
    )
    plot.toolbar.logo = None
    plot.add_tools(
        HoverTool(tooltips=_TOOLTIP, mode="mouse", line_policy="nearest", point_policy="snap_to_data")
    )
    plot.xaxis.formatter = CustomJSTickFormatter(code=_TICKS_JS)
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=5)
    plain(plot)
    return plot


def _columns(curve: Curve, line: Line, what: str, shift: _Shift, second: float) -> dict[str, Any]:
    nowhere = np.full(len(curve), np.nan)
    flops, wall_s = curve.flops + shift.flops, curve.wall_s + shift.wall_s
    return {
        "tokens": nowhere if line.only_axis else curve.tokens,
        "flops": flops,
        "wall": nowhere if line.only_axis else wall_s / second,
        "loss": curve.loss,
        "tokens_text": [units.si(value) for value in curve.tokens],
        "flops_text": [units.flops(value) for value in flops],
        "wall_text": [units.seconds(value) if np.isfinite(value) else "" for value in wall_s],
        "label": [line.label] * len(curve),
        "what": [what] * len(curve),
    }


def _draw(
    plot: Any,
    line: Line,
    curve: Curve,
    what: str,
    shift: _Shift,
    second: float,
    most: int,
    faint: bool = False,
) -> None:
    if not len(curve):
        return
    if len(curve) > most:
        keep = np.linspace(0, len(curve) - 1, most).round().astype(int)
        curve = Curve(curve.tokens[keep], curve.flops[keep], curve.wall_s[keep], curve.loss[keep])
    from bokeh.models import ColumnDataSource

    plot.line(
        x="flops",
        y="loss",
        source=ColumnDataSource(_columns(curve, line, what, shift, second)),
        name=line.key,
        visible=line.visible,
        line_color=line.colour,
        line_dash=line.style,
        line_width=1 if faint else 2.5,
        line_alpha=0.3 if faint else 1.0,
    )


def _mark_crossing(plot: Any, line: Line, run: RunRecord, arm: Arm, shift: _Shift, second: float) -> None:
    """A diamond where the run's own accounting says that the validation loss stays at or below V*."""
    target = target_loss(run)
    spent = _saving_row(run, "sunk").get(
        {"grown": "grown_flops", "scratch": "scratch_flops"}.get(arm.name, "")
    )
    if target is None or spent is None or not len(arm.validation):
        return
    from bokeh.models import ColumnDataSource

    at = np.array([float(spent)])
    way = arm.validation
    tokens, wall_s = (np.interp(at, way.flops, values) for values in (way.tokens, way.wall_s))
    columns = _columns(Curve(tokens, at, wall_s, np.array([target])), line, "reaches V* =", shift, second)
    plot.scatter(
        x="flops",
        y="loss",
        source=ColumnDataSource(columns),
        name=line.key,
        visible=line.visible,
        marker="diamond",
        size=16,
        fill_color=line.colour,
        line_color="white",
    )


def _mark_growths(plot: Any, line: Line, run: RunRecord, arm: Arm, shift: _Shift, second: float) -> None:
    """A vertical line where the arm grew while it trained."""
    done = [growth for growth in run.summary.get("inner_growth") or () if growth.get("after")]
    if arm.name != "grown" or not done:
        return
    from bokeh.models import ColumnDataSource

    after = {key: np.array([float(growth["after"][key]) for growth in done]) for key in _AT_GROWTH}
    columns = _columns(
        Curve(after["tokens"], after["flops"], after["wall_s"], after["loss"]), line, "", shift, second
    )
    columns["what"] = [
        f"grown to width {g['hidden_size']}, {g['num_layers']} layers; validation loss" for g in done
    ]
    plot.vspan(
        x="flops",
        source=ColumnDataSource(columns),
        name=line.key,
        visible=line.visible,
        line_color=line.colour,
        line_dash="dotted",
        line_width=1.5,
        line_alpha=0.7,
    )


def _draw_target(plot: Any, target: float, text: str) -> None:
    from bokeh.models import Label, Span

    plot.add_layout(
        Span(location=target, dimension="width", line_dash="dashed", line_width=1.5, name="target")
    )
    plot.add_layout(
        Label(
            x=6,
            x_units="screen",
            y=target,
            y_offset=-3,
            text_baseline="top",
            text=text,
            text_font_size="13px",
            name="target",
        )
    )
