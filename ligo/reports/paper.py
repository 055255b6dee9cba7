"""Figures for papers, as SVG and PNG: validation loss against FLOPs, tokens and time, and savings with their intervals.

Drawn by matplotlib without a screen or a browser; the same numbers give the same SVG, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ligo.accounting.phases import TRAINED
from ligo.accounting.statistics import Estimate, estimate
from ligo.core import units
from ligo.core.errors import disk_full, require
from ligo.reports.collect import ARM_LABELS, RunRecord
from ligo.reports.figures import spent_before, target_loss
from ligo.reports.savings import savings
from ligo.reports.study import ArmOfStudy, Study
from ligo.reports.style import ARM_COLOURS, COLOURS
from ligo.reports.words import NOT_MEASURED, NOT_REACHED

FORMATS = ("svg", "png")
_AXES = {"flops": "training compute (FLOP)", "tokens": "training tokens", "time": "wall time (s)"}
_CONVENTIONS = {"small model sunk": ARM_COLOURS["grown"], "small model charged": ARM_COLOURS["small"]}
_POINTS = 300
"""Of a curve, which is more than a column of a page shows."""
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "ligo",
}


@dataclass(frozen=True)
class Series:
    """One arm, over its seeds: x is FLOPs, tokens or seconds, each from what was spent before the arm on."""

    label: str
    colour: str
    dashed: bool
    curves: tuple[Mapping[str, np.ndarray], ...]
    """By axis, and under `loss`."""


@dataclass(frozen=True)
class Bar:
    """What one grown arm saved, by convention; None: `absent` says why."""

    label: str
    found: Mapping[str, Estimate | None]
    absent: str


def write_run_figures(runs: Sequence[RunRecord], folder: Path) -> list[Path]:
    """The figures of runs side by side.

    Returns:
        The files; no savings where nothing was compared.

    Raises:
        ConfigError: matplotlib is not installed.
        ResourceError: a file cannot be written.
    """
    one = len(runs) == 1
    curves = [
        Series(
            arm.label if one else f"{run.name}: {arm.label}",
            ARM_COLOURS[name] if one else COLOURS[number % len(COLOURS)],
            not one and name != "grown",
            (_from_start_of_growth(run, name),),
        )
        for number, run in enumerate(runs)
        for name, arm in run.arms.items()
        if name in TRAINED.values() and len(arm.validation)
    ]
    return _write(
        curves,
        [bar for run in runs for bar in _bars_of_run(run)],
        target_loss(runs[0]) if one else None,
        folder,
    )


def write_study_figures(study: Study, folder: Path) -> list[Path]:
    """The figures of a study: each arm as its mean over seeds, within the range of its seeds.

    Returns, raises: as `write_run_figures`.
    """
    members = {member.record.name: member for member in study.members}
    curves = [
        Series(
            f"{arm.name}, {ARM_LABELS[arm.trains]} ({len(arm.seeds)} seed{'s' if len(arm.seeds) > 1 else ''})",
            COLOURS[number % len(COLOURS)],
            arm.trains != "grown",
            tuple(_from_start_of_growth(members[run].record, arm.trains) for run in arm.runs),
        )
        for number, arm in enumerate(sorted(study.arms, key=lambda arm: arm.trains != "grown"))
        if all(members[run].points(arm.trains) for run in arm.runs)
    ]
    bars = [_bar_of_arm(arm) for arm in study.arms if arm.trains == "grown" and arm.reached is not None]
    return _write(curves, bars, None, folder)


def _from_start_of_growth(run: RunRecord, name: str) -> dict[str, np.ndarray]:
    arm = run.arms[name]
    spent, curve = spent_before(run, arm), arm.validation
    return {
        "flops": curve.flops + spent.flops,
        "tokens": curve.tokens,
        "time": curve.wall_s + spent.wall_s,
        "loss": curve.loss,
    }


def _bars_of_run(run: RunRecord) -> Iterator[Bar]:
    rows = [row for row in savings(run.summary) if row.scratch is not None]
    if rows:
        found = {row.convention: None if row.saving is None else estimate([row.saving]) for row in rows}
        yield Bar(run.name, found, NOT_MEASURED if any(row.reached for row in rows) else NOT_REACHED)


def _bar_of_arm(arm: ArmOfStudy) -> Bar:
    found = {convention: arm.savings.get((1.0, convention, "flops")) for convention in _CONVENTIONS}
    return Bar(arm.name, found, NOT_MEASURED if arm.reached == len(arm.seeds) else NOT_REACHED)


# --- drawing ----------------------------------------------------------------------------------------------


def _write(curves: Sequence[Series], bars: Sequence[Bar], target: float | None, folder: Path) -> list[Path]:
    matplotlib = require("matplotlib", extra="figures", why="drawing figures for papers")
    require("matplotlib.figure", extra="figures", why="drawing figures for papers")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(_STYLE):
            for axis in _AXES if curves else ():
                written += _saved(
                    _losses(matplotlib.figure.Figure, curves, axis, target), folder / f"loss_{axis}"
                )
            if bars:
                written += _saved(_savings(matplotlib.figure.Figure, bars), folder / "savings")
    except OSError as error:
        raise disk_full(error, folder) from error
    return written


def _saved(figure: Any, path: Path) -> list[Path]:
    files = [path.with_suffix(f".{kind}") for kind in FORMATS]
    for file in files:
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _losses(figure_class: Any, curves: Sequence[Series], axis: str, target: float | None) -> Any:
    figure = figure_class(figsize=(4.6, 3.0))
    axes = figure.add_subplot()
    for series in curves:
        x, low, mean, high = _over_seeds(series.curves, axis)
        axes.plot(x, mean, color=series.colour, lw=1.4, ls="--" if series.dashed else "-", label=series.label)
        if len(series.curves) > 1:
            axes.fill_between(x, low, high, color=series.colour, alpha=0.18, lw=0)
    if target is not None:
        axes.axhline(target, color="#1c2126", lw=0.8, ls=":", label=f"V* = {target:.4f}")
    axes.set_ylim(*_frame(curves))
    axes.set_xlim(left=0)
    axes.set_xlabel(_AXES[axis])
    axes.set_ylabel("validation loss (nats per prediction)")
    axes.xaxis.set_major_formatter(lambda value, _: units.si(value) if value else "0")
    axes.xaxis.set_major_locator(_ticks(5))
    if len(curves) > 6:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7)
    else:
        axes.legend(loc="upper right")
    return figure


def _ticks(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most)


def _over_seeds(
    curves: Sequence[Mapping[str, np.ndarray]], axis: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x where all seeds were measured, and the lowest, mean and highest loss there, straight lines between evaluations."""
    first, last = max(curve[axis][0] for curve in curves), min(curve[axis][-1] for curve in curves)
    x = np.unique(np.concatenate([curve[axis] for curve in curves]))
    x = x[(x >= first) & (x <= last)]
    x = x[np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int)]
    losses = np.stack([np.interp(x, curve[axis], curve["loss"]) for curve in curves])
    return x, losses.min(axis=0), losses.mean(axis=0), losses.max(axis=0)


def _frame(curves: Sequence[Series]) -> tuple[float, float]:
    """From the lowest loss to what the arms had after a tenth of their way; the first steps lie above."""
    losses = [curve["loss"] for series in curves for curve in series.curves]
    low, high = min(loss.min() for loss in losses), max(loss[len(loss) // 10 :].max() for loss in losses)
    margin = 0.06 * ((high - low) or 1.0)
    return low - margin, high + margin


def _savings(figure_class: Any, bars: Sequence[Bar]) -> Any:
    figure = figure_class(figsize=(4.6, 0.7 + 0.5 * len(bars)))
    axes = figure.add_subplot()
    height = 0.36
    for place, (convention, colour) in enumerate(_CONVENTIONS.items()):
        y = np.arange(len(bars)) + (place - 0.5) * height
        found = [bar.found.get(convention) for bar in bars]
        means = [100 * f.mean if f is not None and f.mean is not None else np.nan for f in found]
        axes.barh(y, means, height, color=colour, label=convention)
        for at, mean, one, bar in zip(y, means, found, bars, strict=True):
            if one is None:
                axes.annotate(f" {bar.absent}", (0, at), va="center", fontsize=7, color="#5d6770")
            elif one.interval is not None:
                low, high = (100 * end for end in one.interval)
                axes.errorbar(mean, at, xerr=[[mean - low], [high - mean]], color="#1c2126", capsize=2, lw=1)
    axes.axvline(0, color="#1c2126", lw=0.8)
    axes.set_yticks(np.arange(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)  # the first on top, room for those without a bar
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("compute saved to the scratch run's final loss (%)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
