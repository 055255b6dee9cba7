"""What learning changed: the numbers of the operator's file, on the page of its run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import GlyphRenderer
from safetensors.numpy import save_file

from ligo.reports.heatmaps import MOST_MAPS, heat_maps, learned_changes
from ligo.reports.html import write_report

from .conftest import RunMaker
from .test_html import visible_text

DEPTH = np.array([[0.1, 0.0], [0.0, -0.2], [0.0, 0.05]], np.float32)
HEADS = np.array([[0.0], [0.3]], np.float32)


def write_operator(folder: Path, *, form: str = "dense", best_step: int = 4, kinds: int = 1) -> None:
    tensors = {f"depth.kind{i}": DEPTH for i in range(kinds)}
    tensors |= {"expand.kv_heads.values": HEADS, "expand.ffn.values": np.ones((4, 2), np.float32)}
    metadata = {
        "growth": json.dumps({"operator.form": form}),
        "learning": json.dumps({"best_step": best_step}),
    }
    save_file(tensors, folder / "operator.safetensors", metadata)


def test_layers_and_heads_are_drawn_as_they_are_in_the_file(tmp_path: Path) -> None:
    write_operator(tmp_path)
    depth, heads = learned_changes(tmp_path)
    assert (depth.name, depth.rows, heads.name) == ("kind0", "target layer", "kv_heads, expand")
    found = heat_maps(tmp_path)
    assert found is not None and found.left_out == 0
    document = Document.from_json(found.item["doc"])
    images = [model.data_source.data["image"][0] for model in document.select({"type": GlyphRenderer})]
    assert {image.shape for image in images} == {(3, 2), (2, 1)}
    np.testing.assert_array_equal(next(image for image in images if image.shape == (3, 2)), DEPTH)


def test_head_maps_in_other_forms_are_left_out(tmp_path: Path) -> None:
    write_operator(tmp_path, form="new_rows")
    assert [change.name for change in learned_changes(tmp_path)] == ["kind0"]


@pytest.mark.parametrize("spoil", ["no file", "nothing better than the start", "damaged"])
def test_where_nothing_was_learned_nothing_is_drawn(tmp_path: Path, spoil: str) -> None:
    if spoil == "nothing better than the start":
        write_operator(tmp_path, best_step=0)
    if spoil == "damaged":
        (tmp_path / "operator.safetensors").write_bytes(b"\x00" * 20)
    assert heat_maps(tmp_path) is None


def test_more_maps_than_fit_are_counted(tmp_path: Path) -> None:
    write_operator(tmp_path, kinds=MOST_MAPS + 2)
    found = heat_maps(tmp_path)
    assert found is not None and found.left_out == 3  # two kinds, and the heads


def test_the_page_of_a_run_shows_them(make_run: RunMaker, tmp_path: Path) -> None:
    folder = make_run()
    words = "What learning changed in the operator"
    assert words not in visible_text(write_report([folder], tmp_path / "without.html")[0].read_text())
    write_operator(folder)
    page = write_report([folder], tmp_path / "with.html")[0].read_text()
    assert words in visible_text(page)
    assert page.count("kind0") == 1 and len(page) < 2_000_000


def test_runs_on_one_page_share_its_maps(tmp_path: Path) -> None:
    write_operator(tmp_path, kinds=9)
    found = heat_maps(tmp_path, num_runs=8)
    assert found is not None and found.left_out == 4  # of nine kinds and the heads, six
