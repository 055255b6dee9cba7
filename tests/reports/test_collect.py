"""Reading run folders: whole, damaged, and none at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ligo.core.errors import DataError
from ligo.reports.collect import load_run

from .conftest import RunMaker, metric_lines


def test_curves_are_what_was_logged(make_run: RunMaker) -> None:
    run = load_run(make_run())
    logged = [line for line in metric_lines() if line["arm"] == "grown" and "eval/loss" in line]
    curve = run.arms["grown"].validation
    assert curve.loss.tolist() == [line["eval/loss"] for line in logged]
    assert curve.flops.tolist() == [line["flops"] for line in logged]
    assert run.arms["grown"].label == "grown (ligo)"
    assert run.warnings == ()


def test_a_cut_last_line_is_tolerated_and_said(make_run: RunMaker) -> None:
    whole, cut = load_run(make_run()), load_run(make_run(tail='{"arm": "grown", "step": 600, "eval/lo'))
    assert len(cut.arms["grown"].validation) == len(whole.arms["grown"].validation)
    assert cut.warnings == (
        "metrics.jsonl: line 325, the last one, cannot be read; the curves end before it.",
    )


def test_a_damaged_middle_says_how_much_is_left_out(make_run: RunMaker) -> None:
    run = load_run(make_run(tail='not json\n{"arm": "late", "step": 1}\n{"arm": "late", "step": 2}\n'))
    assert "late" not in run.arms
    assert "line 325 and the 2 after it" in run.warnings[0]


def test_values_that_are_not_finite_are_left_out_and_said(make_run: RunMaker) -> None:
    nan = {"arm": "grown", "step": 9, "tokens": 1, "flops": 1.0, "wall_s": 1.0, "eval/loss": float("nan")}
    run = load_run(make_run(tail=json.dumps(nan) + "\n"))
    assert len(run.arms["grown"].validation) == 21
    assert run.warnings == ("grown: 1 values of eval/loss are not finite and are not drawn.",)


@pytest.mark.parametrize("missing", ["plan.json", "metrics.jsonl"])
def test_what_is_missing_is_said(make_run: RunMaker, missing: str) -> None:
    folder = make_run()
    (folder / missing).unlink()
    assert load_run(folder).warnings[0].startswith(f"{missing} is missing")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no run folder .*\n.*python -m ligo.grow run.dir="):
        load_run(tmp_path / "nowhere")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no run: summary.json is missing.\n.*python -m ligo.grow"):
        load_run(tmp_path)


def test_an_unfinished_run(make_run: RunMaker) -> None:
    folder = make_run()
    (folder / "summary.json").unlink()
    with pytest.raises(DataError, match=r"is not finished: summary.json is missing"):
        load_run(folder)


@pytest.mark.parametrize(("text", "words"), [("{", "cannot be read"), ("[1]", "holds a list")])
def test_a_summary_that_is_none(make_run: RunMaker, text: str, words: str) -> None:
    folder = make_run()
    (folder / "summary.json").write_text(text)
    with pytest.raises(DataError, match=words):
        load_run(folder)
