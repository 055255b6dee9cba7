"""The committed table of the study follows from its committed numbers."""

from __future__ import annotations

from experiments.downstream import __main__ as downstream
from ligo.core.files import read_json

RESULTS = read_json(downstream.HERE / "results.json")


def test_the_table_is_made_from_the_results() -> None:
    assert (downstream.HERE / "table.md").read_text() == downstream.table(RESULTS)


def test_scratch_had_as_many_flops_as_small_and_grown_together() -> None:
    models = RESULTS["models"]
    assert abs(models["scratch"]["flops"] / models["grown"]["flops"] - 1) < 0.01
