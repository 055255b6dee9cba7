"""The site: built with warnings as errors, a page for every operator, family and command, and nothing left unfilled."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from docs.hooks import figures, pages, pictures
from ligo.families.base import FAMILIES
from ligo.operators.base import DEPTH_OPERATORS, WIDTH_OPERATORS
from tests.docs.blocks import REPO


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_every_operator_and_family_has_a_page_with_its_picture_or_table(site: Path) -> None:
    for name in (*WIDTH_OPERATORS.names(), *DEPTH_OPERATORS.names()):
        page = (site / "operators" / f"{name}.html").read_text()
        assert "<svg" in page and "●" in page, name
    for name in FAMILIES.names():
        page = (site / "families" / f"{name}.html").read_text()
        assert "writes residual" in page and "●" in page, name


def test_every_command_and_module_is_in_the_reference(site: Path) -> None:
    commands = (site / "commands.html").read_text()
    for name in pages.commands():
        assert f"python -m ligo.{name}" in commands
    options = (site / "api" / "options.html").read_text()
    assert "Peak learning rate." in options
    assert "WidthOperator" in (site / "api" / "operators.html").read_text()


def test_nothing_is_left_unfilled_and_nothing_comes_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert "{{" not in text, page
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]*)"', text)
        assert not [
            address for address in loaded if "rel=" not in address and not address.endswith("/ligo/")
        ], page


def test_pages_are_the_same_every_time() -> None:
    first, again = (
        {path: text for path, text in pages.generated() if path != "commands.md"} for _ in range(2)
    )
    assert first == again


def test_a_number_that_there_is_not_ends_the_build() -> None:
    with pytest.raises(KeyError):
        figures.row("demo", "no such row")


def test_a_picture_of_a_matrix_has_its_entries() -> None:
    found = pictures.matrices(("R", np.array([[1.0, 0.0], [0.0, -0.5]])), caption="c")
    assert re.findall(r'class="entry">([^<]*)<', found) == ["1", "0", "0", "-0.5"]
