"""Figures for papers: the curves and bars of the runs, without a browser; left out, and said, without matplotlib."""

from __future__ import annotations

import importlib.util
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from ligo.accounting.statistics import estimate
from ligo.report import main
from ligo.reports import paper
from ligo.reports.collect import load_run
from ligo.reports.paper import Bar, _savings, write_run_figures, write_study_figures
from ligo.reports.study import load_study

from .conftest import OPERATOR_FLOPS, RunMaker
from .study_folder import SCRATCH, add_run

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib: pip install 'ligo[figures]'"
)
NAMES = {
    f"{name}.{kind}"
    for name in ("loss_flops", "loss_tokens", "loss_time", "savings")
    for kind in ("svg", "png")
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "sizes"
    for seed, losses in enumerate(((4.0, 3.2, 3.0), (4.0, 3.0, 2.9), (4.0, 3.1, 3.05, 3.0))):
        add_run(folder, "scratch", seed, SCRATCH, trains="scratch")
        add_run(folder, "ligo", seed, losses)
        add_run(folder, "late", seed, (4.0, 3.5))
    return folder


@needs_matplotlib
def test_a_study_has_its_figures_and_they_say_what_was_not_reached(study: Path, tmp_path: Path) -> None:
    files = write_study_figures(load_study(study), tmp_path / "figures")
    assert {file.name for file in files} == NAMES
    savings = (tmp_path / "figures" / "savings.svg").read_text()
    assert "not reached" in savings and ">ligo<" in savings and "scratch run" in savings
    losses = (tmp_path / "figures" / "loss_flops.svg").read_text()
    assert "ligo, grown (3 seeds)" in losses and "training compute (FLOP)" in losses and "GFLOP" not in losses
    for file in (tmp_path / "figures").glob("*.png"):
        width, height = struct.unpack(">II", file.read_bytes()[16:24])
        assert width > 600 and height > 150


@needs_matplotlib
def test_a_run_has_them_too_and_the_same_numbers_give_the_same_bytes(
    make_run: RunMaker, tmp_path: Path
) -> None:
    run = load_run(make_run())
    for name in ("one", "two"):
        assert {file.name for file in write_run_figures([run], tmp_path / name)} == NAMES
    for name in NAMES:
        if name.endswith("svg"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    svg = (tmp_path / "one" / "loss_tokens.svg").read_text()
    assert not re.search(r"(?:href|src)=\"https?://", svg)


def test_means_over_seeds_are_where_all_seeds_were_measured() -> None:
    curves = [
        {"tokens": np.array([0.0, 2.0, 4.0]), "loss": np.array([4.0, 3.0, 2.0])},
        {"tokens": np.array([1.0, 3.0]), "loss": np.array([5.0, 3.0])},
    ]
    x, low, mean, high = paper._over_seeds(curves, "tokens")
    assert x.tolist() == [1.0, 2.0, 3.0]
    assert low.tolist() == [3.5, 3.0, 2.5]
    assert high.tolist() == [5.0, 4.0, 3.0]
    assert mean.tolist() == [4.25, 3.5, 2.75]


def test_the_grown_arm_begins_where_learning_ended(make_run: RunMaker) -> None:
    run = load_run(make_run())
    assert paper._from_start_of_growth(run, "grown")["flops"][0] == OPERATOR_FLOPS
    assert paper._from_start_of_growth(run, "grown")["time"][0] == 12.0
    assert paper._from_start_of_growth(run, "scratch")["flops"][0] == 0.0


def test_without_matplotlib_the_rest_is_written_and_the_extra_named(
    make_run: RunMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a)
    )
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    run = make_run()
    monkeypatch.setattr(sys, "argv", ["ligo.report", str(run)])
    main()
    said = capsys.readouterr().out
    assert "figures/ is left out" in said and "pip install 'ligo[figures]'" in said
    assert (run / "results.json").exists() and (run / "table.md").exists() and not (run / "figures").exists()


@needs_matplotlib
def test_an_arm_without_a_bar_has_its_row_too() -> None:
    """The first and the last above all, which bars alone would leave outside the frame."""
    from matplotlib.figure import Figure

    absent = Bar("not there", {}, "not reached")
    (axes,) = _savings(Figure, [absent, Bar("there", {"small model sunk": estimate([0.2])}, ""), absent]).axes
    bottom, top = axes.get_ylim()
    assert (bottom, top) == (2.5, -0.5)
    shown = [text.get_position()[1] for text in axes.texts]
    assert len(shown) == 5 and all(top < y < bottom for y in shown)
