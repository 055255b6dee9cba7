"""The page says what the summary says, honestly, and needs nothing from outside."""

from __future__ import annotations

import html
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ligo.core import units
from ligo.reports.collect import load_run
from ligo.reports.figures import MAX_POINTS, loss_chart
from ligo.reports.html import write_report
from ligo.reports.run_table import savings_table_text
from ligo.reports.savings import answer, savings

from .conftest import OPERATOR_FLOPS, SMALL_FLOPS, RunMaker, summary_of


def visible_text(page: str) -> str:
    """The page without styles, scripts and tags, in single spaces."""
    page = re.sub(r"<(style|script)>.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.fixture
def report(tmp_path: Path) -> Any:
    def write(*folders: Path) -> str:
        page, *_ = write_report(list(folders), tmp_path / "out" / "report.html")
        return page.read_text(encoding="utf-8")

    return write


def not_reached(summary: dict[str, Any]) -> None:
    for row in summary["savings"]:
        row.update(grown_flops=None, saving=None)


def no_scratch(summary: dict[str, Any]) -> None:
    summary["arms"] = summary["arms"][:1]
    summary.update(target_loss=None, savings=[], equal_tokens=None, equal_flops=None)


def test_numbers_are_those_of_the_summary(make_run: RunMaker, report: Any) -> None:
    text, summary = visible_text(report(make_run())), summary_of("demo")
    for row in summary["savings"]:
        total = row["small_flops"] + row["operator_flops"] + row["grown_flops"]
        parts = (row["small_flops"], row["operator_flops"], row["grown_flops"], total, row["scratch_flops"])
        cells = [row["convention"], units.percent(row["saving"]), *map(units.flops, parts)]
        assert " ".join(cells) in text
    assert "grown (ligo) 3.0513 3.0514 3.0515 5 M 80 TFLOP 2 min 30 s 0.0005" in text
    assert "from scratch 3.2125 3.2126 3.2987 5 M 99 TFLOP 3 min 20 s 0.001" in text
    for shown in (
        "3.9502",
        "3.9101",
        "7.15e-06",
        "412 k parameters",
        "1.73 M parameters",
        "V*: 3.2125",
        "same function yes;",
    ):
        assert shown in text
    for shown in (
        summary["command"],
        summary["not_measured"][0],
        "start + rank 16",
        "torch 2.13.0",
        "one seed",
    ):
        assert shown in text
    assert text.index(answer(summary)) < text.index("Loss curves")


def test_nothing_is_loaded_from_outside(make_run: RunMaker, report: Any) -> None:
    page = report(make_run())
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert not re.findall(r"""(?:["'`]|url\()https?://(?!www\.w3\.org/)[^"'`]*""", page), (
        "an address that could be loaded"
    )
    assert "<link" not in visible_text(page)
    assert len(page.encode()) < 2_000_000


def test_values_are_escaped(make_run: RunMaker, report: Any) -> None:
    evil = "</script><script>alert('x')</script>"

    def change(summary: dict[str, Any]) -> None:
        summary.update(name=evil, command=evil, notes=[evil])
        summary["arms"][0]["label"] = summary["growth"]["verdict"] = evil

    assert "<script>alert" not in report(make_run(change=change))
    assert "<script>alert" not in report(make_run(change=change), make_run())


def test_not_reached_is_never_a_number(make_run: RunMaker, report: Any) -> None:
    text = visible_text(report(make_run(change=not_reached)))
    assert "No saving: the grown model did not reach the target loss of 3.2125 within its budget" in text
    assert "not reached 0 FLOP 4.2 TFLOP not reached not reached 99 TFLOP" in text
    assert "saved" not in text
    assert not re.search(r"\d %", text)


def test_a_saving_without_its_parts_is_not_believed(make_run: RunMaker, report: Any) -> None:
    def change(summary: dict[str, Any]) -> None:
        not_reached(summary)
        summary["savings"][0]["saving"] = 0.5
        summary["savings"][1].update(grown_flops=1e13, saving=0.9)

    text = visible_text(report(make_run(change=change)))
    assert "50.0 %" not in text
    assert "The stated saving (small model sunk) does not follow from its parts" in text
    assert "The stated saving (small model charged) does not follow from its parts" in text


def test_missing_arms_are_said(make_run: RunMaker, report: Any) -> None:
    text = visible_text(report(make_run(change=no_scratch, arms=("grown",))))
    assert "was not measured: it takes both a grown run and one from scratch" in text
    assert "from scratch" + " not measured" * 7 in text
    assert "Target loss V*: not measured." in text


def test_an_almost_empty_run_still_makes_a_page(make_run: RunMaker, report: Any) -> None:
    folder = make_run()
    (folder / "summary.json").write_text("{}")
    (folder / "plan.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("")
    assert "Not measured: the run has no curves." in visible_text(report(folder))


def test_a_cut_line_is_said_in_the_notes(make_run: RunMaker, report: Any) -> None:
    assert "line 325, the last one, cannot be read" in visible_text(report(make_run(tail='{"arm": "gr')))


def test_several_runs_are_compared(make_run: RunMaker, report: Any) -> None:
    text = visible_text(report(make_run("one"), make_run("two", change=not_reached)))
    for shown in (
        "2 runs compared",
        "one: grown (ligo)",
        "two: from scratch",
        "one: details",
        "two: details",
    ):
        assert shown in text


@pytest.mark.parametrize(
    ("sunk", "charged", "sentence"),
    [
        (
            0.52,
            0.31,
            "Growing saved 31.0 % of the compute of training from scratch (small model charged); "
            "52.0 % when the small model is already there.",
        ),
        (
            0.2,
            -0.1,
            "Growing cost 10.0 % more compute than training from scratch (small model charged), "
            "but saved 20.0 % when the small model is already there.",
        ),
        (
            -0.05,
            -0.4,
            "Growing cost 40.0 % more compute than training from scratch (small model charged); "
            "5.0 % more when the small model is already there.",
        ),
        (
            0.2,
            None,
            "Growing saved 20.0 % of the compute of training from scratch when the small model is already "
            "there; what the small model itself cost was not measured.",
        ),
    ],
)
def test_the_answer_in_one_sentence(sunk: float, charged: float | None, sentence: str) -> None:
    summary = summary_of("demo")
    summary["savings"][0]["saving"] = sunk
    summary["savings"][1]["saving"] = charged
    if charged is None:
        summary["savings"][1]["small_flops"] = None
    assert answer(summary) == sentence


def test_the_savings_follow_from_their_parts() -> None:
    assert all(row.agrees for row in savings(summary_of("demo")))


def test_the_table_for_the_terminal() -> None:
    summary = summary_of("demo")
    lines = savings_table_text(summary).split("\n")
    assert len({len(line) for line in lines[:4]}) == 1, "columns are aligned"
    assert lines[3].split("  ")[0] == "small model charged"
    assert lines[3].endswith(units.percent(summary["savings"][1]["saving"]))
    assert lines[-1] == answer(summary)
    not_reached(summary)
    assert savings_table_text(summary).count("not reached") == 7
    no_scratch(summary)
    assert savings_table_text(summary) == answer(summary)


def test_the_chart_charges_what_came_before(make_run: RunMaker) -> None:
    from bokeh.document import Document

    chart = loss_chart([load_run(make_run())])
    assert chart is not None
    plot = Document.from_json(chart.item["doc"]).get_model_by_name("losses")
    keys = {line.label: line.key for line in chart.lines}

    def starts(label: str) -> set[float]:
        sources = [r.data_source.data for r in plot.renderers if r.name == keys[label]]
        return {source["flops"][0] for source in sources if len(source["flops"]) > 1}

    assert starts("grown (ligo)") == {OPERATOR_FLOPS}
    assert starts("grown (ligo), small model charged") == {OPERATOR_FLOPS + SMALL_FLOPS}
    assert starts("from scratch") == {0.0}
    marks = [r.data_source.data for r in plot.renderers if len(r.data_source.data["flops"]) == 1]
    crossings = sorted(float(mark["flops"][0]) for mark in marks)
    assert np.allclose(crossings, [3.72e13, 5.82e13, 9.9e13])


def test_long_runs_stay_small_and_quick(make_run: RunMaker, report: Any) -> None:
    folder = make_run()
    line = '{"arm": "grown", "tokens": %d, "flops": %d, "wall_s": 1, "eval/loss": 3, "train/loss": 3}\n'
    (folder / "metrics.jsonl").write_text("".join(line % (step, step) for step in range(20_000)))
    started = time.monotonic()
    page = report(folder)
    assert time.monotonic() - started < 5
    assert len(page.encode()) < 2_000_000
    chart = loss_chart([load_run(folder)])
    assert chart is not None and str(chart.item).count("20 k") and MAX_POINTS < 20_000


def test_a_control_that_ends_below_the_grown_model_is_on_the_first_screen(
    make_run: RunMaker, report: Any
) -> None:
    def control(summary: dict[str, Any]) -> None:
        summary["arms"].append({"name": "continue", "label": "small model trained on", "final_loss": 2.9})

    text = visible_text(report(make_run(change=control)))
    sentence = "Control: small model trained on ended at 2.9000, below the grown model's 3.0513."
    assert text.index(sentence) < text.index("Loss curves")
