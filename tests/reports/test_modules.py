"""The weights before and after growth: the numbers of the summary, as table and as chart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bokeh.document import Document
from bokeh.models import Scatter

from ligo.reports.html import write_report
from ligo.reports.modules import MODULE_COLUMNS, module_chart, module_rows

from .conftest import MODULES, RunMaker
from .test_html import visible_text


def test_each_module_has_its_row() -> None:
    rows = {row[0]: row[1:] for row in module_rows(MODULES)}
    assert all(len(row) == len(MODULE_COLUMNS) - 1 for row in rows.values())
    assert rows["self_attn.q_proj"] == ["0.11", "0.055", "0.500", "0.0121", "0.003"]
    assert rows["router"] == ["drawn fresh", "0.02", "", "", "0.0004"]


def test_the_chart_has_both_sizes_of_each_module() -> None:
    chart = module_chart(
        [*MODULES, {"module": "bias", "small": None, "grown": {"rms": 0.0, "variance": 0.0}}]
    )
    assert chart is not None
    plot = Document.from_json(chart["doc"]).get_model_by_name("modules")
    drawn = next(r for r in plot.renderers if isinstance(r.glyph, Scatter)).data_source.data
    assert list(drawn["module"]) == [module["module"] for module in MODULES]  # zero has no logarithm
    assert list(drawn["grown"]) == [module["grown"]["rms"] for module in MODULES]
    assert np.isnan(drawn["small"][-1]) and drawn["small"][0] == MODULES[0]["small"]["rms"]


def test_the_page_shows_them_in_the_growth_or_says_that_they_are_missing(
    make_run: RunMaker, tmp_path: Path
) -> None:
    with_them = make_run()
    without = make_run(change=lambda summary: summary["growth"].pop("modules"))
    page = visible_text(write_report([with_them], tmp_path / "with.html")[0].read_text())
    assert "self_attn.q_proj 0.11 0.055 0.500 0.0121 0.003" in page
    assert page.index("The growth plan") < page.index("The weights before and after growth")
    page = visible_text(write_report([without], tmp_path / "without.html")[0].read_text())
    assert "Not measured: it takes the stages write and verify." in page
