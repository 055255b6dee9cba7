"""The report: one self-contained HTML page for one run or several, and its savings table as text.

Every number is taken from the run's own summary. What was not measured is called that, and a target
loss that was not reached never turns into a saving.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.core import units
from ligo.core.files import write_json, write_text
from ligo.reports.collect import (
    ARM_LABELS,
    RunRecord,
    as_ligo_writes_them,
    check_different_names,
    load_run,
)
from ligo.reports.figures import Chart, bokeh_script, loss_chart
from ligo.reports.heatmaps import heat_maps
from ligo.reports.ledger import PHASE_COLUMNS, TARGET_COLUMNS, phase_rows, target_rows
from ligo.reports.page import PAGE
from ligo.reports.study import as_json, load_study
from ligo.reports.study_table import EXPLANATION, STUDY_COLUMNS, markdown, study_rows

NOT_MEASURED = "not measured"
NOT_REACHED = "not reached"
MET_AT_START = "met at the start"
SAVINGS_COLUMNS = ("convention", "small", "operator", "grown until V*", "total", "from scratch", "saving")


@dataclass(frozen=True)
class Saving:
    """One way to count, checked: the saving is a number only when every part of it is one."""

    convention: str
    small: float | None
    operator: float | None
    grown: float | None
    scratch: float | None
    stated: float | None
    met_at_start: bool = False

    @property
    def reached(self) -> bool:
        return self.grown is not None

    @property
    def total(self) -> float | None:
        parts = (self.small, self.operator, self.grown)
        return None if None in parts else sum(part for part in parts if part is not None)

    @property
    def saving(self) -> float | None:
        return None if self.total is None or self.scratch is None else self.stated

    @property
    def agrees(self) -> bool:
        """Whether the stated saving is what the formula gives for the stated parts."""
        if self.saving is None or self.total is None or not self.scratch:
            return self.stated is None
        return math.isclose(self.saving, 1 - self.total / self.scratch, abs_tol=1e-3)

    def cells(self) -> list[str]:
        """The row as text, in the order of SAVINGS_COLUMNS."""
        absent = NOT_MEASURED if self.reached or self.scratch is None else NOT_REACHED
        return [
            self.convention,
            _or_absent(self.small, units.flops),
            _or_absent(self.operator, units.flops),
            _or_absent(self.grown, units.flops, absent),
            _or_absent(self.total, units.flops, absent),
            _or_absent(self.scratch, units.flops),
            units.percent(
                self.saving, MET_AT_START if self.met_at_start and self.total is not None else absent
            ),
        ]


def savings(summary: Mapping[str, Any]) -> list[Saving]:
    """The savings of a summary, one per convention."""
    rows = []
    for row in summary.get("savings") or ():
        parts = (
            _finite(row.get(key)) for key in ("small_flops", "operator_flops", "grown_flops", "scratch_flops")
        )
        small, operator, grown, scratch = parts
        convention, stated = str(row.get("convention", "")), _finite(row.get("saving"))
        at_start = row.get("met_at_start") is True
        rows.append(Saving(convention, small, operator, grown, scratch, stated, at_start))
    return rows


def answer(summary: Mapping[str, Any]) -> str:
    """The finding in one sentence, good or bad."""
    if "tuning" in summary:
        return _tuned(summary["tuning"])
    rows = savings(summary)
    target = summary.get("target_loss") or {}
    if not rows or target.get("value") is None or all(row.scratch is None for row in rows):
        return (
            "Whether growing saves compute was not measured: it takes both a grown run and one from scratch."
        )
    if not any(row.reached for row in rows):
        return (
            f"No saving: the grown model did not reach the target loss of {_loss(target['value'])} "
            "within its budget (not reached)."
        )
    found = {
        word: next((r.saving for r in rows if word in r.convention), None) for word in ("sunk", "charged")
    }
    sunk, charged = found["sunk"], found["charged"]
    at_start = any(row.met_at_start for row in rows)
    if charged is None:
        if at_start:
            return (
                "The grown model met the target loss before its first step; what the small model itself cost was not measured, "
                "so nothing is said of a saving."
            )
        if sunk is None:
            return "Growing reached the target loss, but a part of its cost was not measured."
        return (
            f"Growing {_claim(sunk)} when the small model is already there; "
            "what the small model itself cost was not measured."
        )
    sentence = f"Growing {_claim(charged)} (small model charged)"
    if sunk is None:
        return (
            f"{sentence}; the grown model met the target loss before its first step."
            if at_start
            else f"{sentence}."
        )
    same_sign = (sunk > 0) == (charged > 0)
    more = units.percent(abs(sunk)) + ("" if sunk > 0 else " more")
    joint = f"; {more}" if same_sign else f", but {'saved' if sunk > 0 else 'cost'} {more}"
    return f"{sentence}{joint} when the small model is already there."


def _tuned(tuning: Mapping[str, Any]) -> str:
    start, end = _finite(tuning.get("start_loss")), _finite(tuning.get("loss"))
    if start is None or end is None:
        return "What tuning did to the loss of responses was not measured."
    did = "lowered" if end < start else "did not lower"
    return f"Tuning {did} the loss of responses that were held out: {start:.4f} before, {end:.4f} after."


def savings_table_text(summary: Mapping[str, Any]) -> str:
    """The savings at V* and at the losses before it for a terminal, followed by the answer."""
    lines = _aligned(SAVINGS_COLUMNS, [saving.cells() for saving in savings(summary)])
    further = _aligned(TARGET_COLUMNS, target_rows(summary))
    return "\n".join([*lines, "", *further, *([""] if further else []), answer(summary)]).lstrip("\n")


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


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write one self-contained page about one or several run folders; give back `out`.

    Raises:
        DataError: one of the folders holds no finished run, or two have one name.
        ResourceError: the page cannot be written.
    """
    records = [load_run(Path(folder)) for folder in runs]
    check_different_names(records)
    title = records[0].name if len(records) == 1 else f"{len(records)} runs compared"
    with as_ligo_writes_them([record.folder for record in records]):
        changes = heat_maps(records[0].folder) if len(records) == 1 else None
        sections = [_section(record) for record in records]
        return _write_page(out, title, loss_chart(records), sections=sections, changes=changes)


def write_study_report(folder: Path, out: Path) -> list[Path]:
    """Write what the arms of a study come to over their seeds: a page, and beside it the numbers and a table for papers.

    Returns:
        The page `out`, report.json with all numbers, and table.md.

    Raises:
        DataError: as `load_study` does.
        ResourceError: a file cannot be written.
    """
    study = load_study(Path(folder))
    chart = loss_chart([m.record for m in study.members], [m.group for m in study.members])
    page = _write_page(
        out, f"study {study.name}", chart, sections=[], study=study, study_rows=study_rows(study)
    )
    numbers, table = page.with_suffix(".json"), page.with_name("table.md")
    write_json(numbers, as_json(study))
    write_text(table, markdown(study))
    return [page, numbers, table]


def _write_page(out: Path, title: str, chart: Chart | None, **values: Any) -> Path:
    from jinja2 import ChainableUndefined, Environment

    environment = Environment(
        autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": False
    }  # Bokeh defines an object where it first stands
    environment.filters |= {
        "flops": lambda value: _or_absent(_finite(value), units.flops),
        "count": lambda value: _or_absent(_finite(value), units.si),
        "wall": lambda value: _or_absent(_finite(value), units.seconds),
        "loss": _loss,
        "general": lambda value: _or_absent(_finite(value), lambda number: f"{number:.3g}"),
    }
    page = environment.from_string(PAGE).render(
        title=title,
        columns=SAVINGS_COLUMNS,
        target_columns=TARGET_COLUMNS,
        phase_columns=PHASE_COLUMNS,
        chart=chart,
        bokeh=bokeh_script() if chart or values.get("changes") else "",
        study_columns=STUDY_COLUMNS,
        explanation=EXPLANATION,
        **values,
    )
    write_text(Path(out), page)
    return Path(out)


def _section(run: RunRecord) -> dict[str, Any]:
    rows = savings(run.summary)
    notes = [*map(str, run.summary.get("notes") or ()), *run.warnings]
    notes += [
        f"The stated saving ({row.convention}) does not follow from its parts: check summary.json."
        for row in rows
        if not row.agrees
    ]
    small, target = run.plan.get("small"), run.plan.get("target")
    changed: list[tuple[str, Any, Any]] = []
    if isinstance(small, dict) and isinstance(target, dict):
        changed = [
            (key, small.get(key, "absent"), new) for key, new in target.items() if small.get(key) != new
        ]
    return {
        "name": run.name,
        "answer": answer(run.summary),
        "summary": run.summary,
        "plan": run.plan,
        "changed": changed,
        "savings": rows,
        "targets": target_rows(run.summary),
        "phases": phase_rows(run.summary),
        "arms": _arm_rows(run),
        "notes": notes,
    }


def _arm_rows(run: RunRecord) -> list[dict[str, Any]]:
    """One row per arm of the summary; where a model was grown, the grown and the scratch arm stand there even when absent."""
    rows = [dict(row) for row in run.summary.get("arms") or ()]
    for name in () if "tuning" in run.summary else ("grown", "scratch"):
        if all(row.get("name") != name for row in rows):
            rows.append({"name": name, "label": ARM_LABELS[name]})
    for row in rows:
        for key in ("equal_tokens", "equal_flops"):
            row[key] = ((run.summary.get(key) or {}).get("losses") or {}).get(row.get("name"))
    return rows


def _finite(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def _or_absent(value: float | None, write: Any, absent: str = NOT_MEASURED) -> str:
    return absent if value is None else str(write(value))


def _loss(value: Any) -> str:
    return _or_absent(_finite(value), lambda loss: f"{loss:.4f}")


def _claim(saving: float) -> str:
    if saving > 0:
        return f"saved {units.percent(saving)} of the compute of training from scratch"
    return f"cost {units.percent(-saving)} more compute than training from scratch"
