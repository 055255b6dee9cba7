"""Reports in a real Chromium, from their files: nothing is asked of the network, charts answer, and a phone can show them.

Screenshots are left in tests/artifacts/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ligo.reports.html import write_report, write_study_report

from .browser import DESKTOP, MISSING, PHONE, browser, opened
from .conftest import RunMaker
from .study_folder import SCRATCH, add_run
from .test_heatmaps import write_operator

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.fixture
def run_page(make_run: RunMaker, tmp_path: Path) -> Path:
    folder = make_run()
    write_operator(folder, kinds=5)
    return write_report([folder], tmp_path / "out" / "report.html")[0]


@pytest.fixture
def study_page(tmp_path: Path) -> Path:
    folder = tmp_path / "sizes"
    grown = {"ligo": (4.0, 3.2, 3.0), "exact": (4.0, 3.3, 3.1, 3.0), "late": (4.0, 3.6)}
    for seed in range(3):
        add_run(folder, "scratch", seed, SCRATCH, trains="scratch")
        for arm, losses in grown.items():
            run = add_run(folder, arm, seed, [loss - 0.02 * seed for loss in losses])
            write_operator(run)
    return write_study_report(folder, tmp_path / "out" / "report.html")[0]


PLOT = 'Bokeh.documents.map((d) => d.get_model_by_name("losses")).find((found) => found)'


@pytest.mark.parametrize("what", ["run", "study"])
@pytest.mark.parametrize(("device", "size"), [("desktop", DESKTOP), ("phone", PHONE)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_from_its_file_alone(
    chromium: Any, request: pytest.FixtureRequest, what: str, device: str, size: tuple[int, int], scheme: str
) -> None:
    file = request.getfixturevalue(f"{what}_page")
    ARTIFACTS.mkdir(exist_ok=True)
    with opened(chromium, file, size, scheme) as found:
        page = found.page
        for details in page.locator("details").all():
            details.evaluate("(found) => found.open = true")
        page.wait_for_function("Bokeh.documents.length === Object.keys(charts).length")
        page.wait_for_timeout(300)
        page.screenshot(path=ARTIFACTS / f"report-{what}-{device}-{scheme}.png", full_page=True)
        width = page.evaluate("document.documentElement.scrollWidth")
        paper, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        drawn = page.evaluate(f"{PLOT}.below[0].major_label_text_color")
    assert found.requests == []
    assert found.complaints == []
    assert width <= size[0]
    assert (brightness(paper) > brightness(ink)) == (scheme == "light")
    assert drawn == ("#1c2126" if scheme == "light" else "#e4e8eb")  # charts follow the page


def test_the_axis_is_switched_and_arms_are_hidden(chromium: Any, run_page: Path) -> None:
    state = f"""() => {{
      const plot = {PLOT};
      return [plot.renderers[0].glyph.x.field, plot.below[0].axis_label,
        plot.renderers.filter((r) => r.name === "line-0").map((r) => r.visible)];
    }}"""
    with opened(chromium, run_page) as found:
        page = found.page
        assert page.evaluate(state) == ["flops", "training compute (FLOP)", [True] * 3]
        for label, key, words in (
            ("tokens", "tokens", "training tokens"),
            ("wall time", "wall", "wall time (min)"),
        ):
            page.get_by_role("radiogroup").get_by_text(label, exact=True).click()
            assert page.evaluate(state)[:2] == [key, words]
        page.get_by_role("group", name="arms").get_by_text("grown (ligo)", exact=True).click()
        assert page.evaluate(state)[2] == [False] * 3
        assert found.complaints == []


def test_a_line_tells_its_numbers_where_one_points_at_it(chromium: Any, run_page: Path) -> None:
    place = f"""() => {{
      const plot = {PLOT}, view = Bokeh.index.find_one(plot);
      const curve = plot.renderers.find((r) => r.name === "line-0" && r.glyph.line_alpha.value !== 0.3);
      const {{flops, loss}} = Object.fromEntries(["flops", "loss"].map((key) => [key, curve.data_source.get(key)]));
      const middle = Math.floor(flops.length / 2), box = view.el.getBoundingClientRect();
      return [box.x + view.frame.x_scale.compute(flops[middle]), box.y + view.frame.y_scale.compute(loss[middle]),
        loss[middle].toFixed(4)];
    }}"""
    with opened(chromium, run_page) as found:
        page = found.page
        page.locator("#losses").scroll_into_view_if_needed()
        x, y, loss = page.evaluate(place)
        page.mouse.move(x - 30, y - 30)
        page.mouse.move(x, y)
        page.get_by_text(loss).first.wait_for()
        assert page.get_by_text("validation loss", exact=False).count()


def test_charts_follow_when_the_screen_turns_dark(chromium: Any, run_page: Path) -> None:
    with opened(chromium, run_page) as found:
        found.page.emulate_media(color_scheme="dark")
        found.page.wait_for_function(f"{PLOT}.left[0].major_label_text_color === '#e4e8eb'")
        assert found.page.evaluate(f"{PLOT}.left[0].axis_label_text_color") == "#e4e8eb"


def brightness(colour: str) -> int:
    """Of 'rgb(r, g, b)'."""
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
