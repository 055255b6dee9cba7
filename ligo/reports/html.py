"""A report as files: one self-contained page, and beside it results.json with its numbers and table.md for papers.

Every number is taken from what the runs wrote down.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ligo.core import units
from ligo.core.files import read_object, write_json, write_text
from ligo.reports.collect import RunRecord, as_ligo_writes_them, check_different_names, load_run
from ligo.reports.comparable import check_same_evaluation, evaluated_on, run_config
from ligo.reports.earlier import read_earlier
from ligo.reports.figures import bokeh_script, loss_chart
from ligo.reports.growth import growth_section
from ligo.reports.ledger import PHASE_COLUMNS, TARGET_COLUMNS, phase_rows, target_rows
from ligo.reports.modules import MODULE_COLUMNS
from ligo.reports.paper import write_run_figures, write_study_figures
from ligo.reports.results import run_results, study_results
from ligo.reports.run_table import arms_of, runs_markdown
from ligo.reports.savings import SAVINGS_COLUMNS, answer, controls, savings
from ligo.reports.study import Study, load_study
from ligo.reports.study_table import (
    COST_COLUMNS,
    EXPLANATION,
    STUDY_COLUMNS,
    STUDY_TARGET_COLUMNS,
    cost_rows,
    energy_assumption,
    markdown,
    study_answer,
    study_not_measured,
    study_rows,
    study_target_rows,
)
from ligo.reports.words import NOT_MEASURED, finite, loss_text, or_absent


def write_report(folders: Sequence[Path], out: Path, *, figures: bool = False) -> list[Path]:
    """Write what one run or several come to.

    Args:
        figures: whether to draw figures/ too, which takes matplotlib.

    Returns:
        The page `out`, results.json and table.md, and the figures.

    Raises:
        DataError: one of the folders holds no finished run, two have one name, or their evaluation data differ.
        ResourceError: a file cannot be written.
    """
    runs = [load_run(Path(folder)) for folder in folders]
    check_different_names(runs)
    notes = check_same_evaluation(
        {run.name: evaluated_on(run.folder, run_config(run.folder)) for run in runs}
    )
    with as_ligo_writes_them([run.folder for run in runs]):
        all_notes = [*notes, *(note for run in runs for note in _notes(run))]
        page, results = _page_of_runs(runs, notes), run_results(runs, all_notes)
        written = _write(out, page, results, runs_markdown(runs))
        return written + (write_run_figures(runs, out.with_name("figures")) if figures else [])


def write_study_report(
    folder: Path, out: Path, *, earlier: Path | None = None, figures: bool = False
) -> list[Path]:
    """Write what the arms of a study come to over their seeds.

    Args:
        earlier: results.json of runs of this study that are no longer there, to stand beside those in the folder.
        figures: as for `write_report`.

    Returns:
        The page `out`, results.json and table.md, and the figures.

    Raises:
        DataError: as `load_study` and `read_earlier` do.
        ResourceError: a file cannot be written.
    """
    name = read_object(folder / "study.json")["name"] if earlier else ""
    study = load_study(folder, read_earlier(earlier, name) if earlier else None)
    written = _write(out, _page_of_study(study), study_results(study), markdown(study))
    return written + (write_study_figures(study, out.with_name("figures")) if figures else [])


def _write(out: Path, page: str, results: dict[str, Any], table: str) -> list[Path]:
    numbers, markdown = out.with_name("results.json"), out.with_name("table.md")
    write_text(out, page)
    write_json(numbers, results)
    write_text(markdown, table)
    return [out, numbers, markdown]


def _page_of_runs(runs: Sequence[RunRecord], notes: Sequence[str]) -> str:
    charts: dict[str, Any] = {}
    losses = loss_chart(runs)
    if losses is not None:
        charts["losses"] = losses.item
    sections = [
        {
            "name": run.name,
            "answer": answer(run.summary),
            "controls": controls(run.summary),
            "savings": [_saving_first(row.cells()) for row in savings(run.summary)],
            "targets": target_rows(run.summary),
            "phases": _footprint_where_known([PHASE_COLUMNS, *phase_rows(run.summary)]),
            "arms": arms_of(run),
            "not_measured": run.summary.get("not_measured") or (),
            "notes": _notes(run),
            **growth_section(run, number, len(runs), charts),
        }
        for number, run in enumerate(runs)
    ]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    counted = any("tuning" not in run.summary for run in runs)
    return _rendered(
        "runs.html", title, losses=losses, charts=charts, sections=sections, notes=notes, counted=counted
    )


def _page_of_study(study: Study) -> str:
    charts: dict[str, Any] = {}
    members = study.members
    losses = loss_chart([member.record for member in members], [member.group for member in members])
    if losses is not None:
        charts["losses"] = losses.item
    first_of = {member.group: member for member in reversed(members) if "write" in member.results}
    arms = list(dict.fromkeys(arm.name for arm in study.arms if arm.name in first_of))
    sections = [
        {
            "name": f"{name}, as run {first_of[name].record.name} did it",
            **growth_section(first_of[name].record, number, len(arms), charts),
        }
        for number, name in enumerate(arms)
    ]
    return _rendered(
        "study.html",
        f"study {study.name}",
        losses=losses,
        charts=charts,
        sections=sections,
        study=study,
        counted=True,
        answer=study_answer(study)[0],
        basis=study_answer(study)[1],
        rows=study_rows(study),
        targets=study_target_rows(study),
        costs=_footprint_where_known([COST_COLUMNS, *cost_rows(study)]),
        assumption=energy_assumption(study),
        not_measured=study_not_measured(study),
    )


def _rendered(template: str, title: str, **values: Any) -> str:
    from jinja2 import ChainableUndefined, Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("ligo.reports"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": False
    }  # Bokeh defines an object where it first stands
    environment.filters |= {
        "flops": lambda value: or_absent(finite(value), units.flops),
        "count": lambda value: or_absent(finite(value), units.si),
        "wall": lambda value: or_absent(finite(value), units.seconds),
        "loss": loss_text,
        "unbroken": lambda text: text.replace(" %", "\u00a0%"),
        "general": lambda value: or_absent(finite(value), "{:.3g}".format),
    }
    return environment.get_template(template).render(
        title=title,
        savings_columns=_saving_first(SAVINGS_COLUMNS),
        target_columns=STUDY_TARGET_COLUMNS if "study" in values else TARGET_COLUMNS,
        module_columns=MODULE_COLUMNS,
        study_columns=STUDY_COLUMNS,
        explanation=EXPLANATION,
        bokeh=bokeh_script() if values["charts"] else "",
        **values,
    )


def _saving_first(cells: Sequence[str]) -> list[str]:
    """What counts stands beside its convention, where a narrow screen shows it."""
    return [cells[0], cells[-1], *cells[1:-1]]


def _footprint_where_known(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """A table of costs, its head first, without energy and CO2 where none is known: the page says why."""
    known = any(cell not in ("", NOT_MEASURED) for row in rows[1:] for cell in row[-2:])
    return [row if known else row[:-2] for row in rows]


def _notes(run: RunRecord) -> list[str]:
    return [
        *map(str, run.summary.get("notes") or ()),
        *run.warnings,
        *(
            f"The stated saving ({row.convention}) does not follow from its parts: check summary.json."
            for row in savings(run.summary)
            if not row.agrees
        ),
    ]
