"""The tables of the ledger: what is missing is a word, never a number."""

from __future__ import annotations

from typing import Any

from ligo.reports.ledger import PHASE_COLUMNS, TARGET_COLUMNS, phase_rows, target_rows
from ligo.reports.run_table import savings_table_text
from ligo.reports.savings import answer

from .conftest import summary_of


def target_row(share: float, reached: bool, **savings: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"of": "scratch", "share": share, "loss": 3.5, "reached": reached}
    row |= {key: {"saving": savings.get(key)} for key in ("flops", "tokens", "wall_s")}
    return row | {"convention": "small model charged"}


def test_each_loss_has_its_row() -> None:
    rows = [target_row(0.75, True, flops=0.25, tokens=0.5), target_row(1.0, False)]
    assert target_rows({"savings_by_target": rows}) == [
        ["from scratch, after 75 % of its FLOPs", "3.5000", "small model charged", "25.0 %", "50.0 %", "not measured"],
        ["from scratch, at its end", "3.5000", "small model charged", *["not reached"] * 3],
    ]  # fmt: skip


def test_the_terminal_shows_both_tables_and_ends_with_the_answer() -> None:
    summary = summary_of("demo") | {"savings_by_target": [target_row(0.5, True, flops=0.7)]}
    lines = savings_table_text(summary).split("\n")
    assert lines[-1] == answer(summary)
    assert lines[5].split("  ")[0] == TARGET_COLUMNS[0]
    assert len({len(line) for line in lines[5:8]}) == 1, "columns are aligned"


def test_phases_of_a_run_and_of_an_older_one() -> None:
    spent = {"flops": 6e12, "tokens": 5e6, "wall_s": 90.0, "ranks": 1}
    phases = {
        "small": {"flops": None, "tokens": None}, "operator": {**spent, "candidates": []}, "build": {"flops": 3e9},
        "training": {"grown": spent}, "evaluation": {"grown": {"times": 4, "flops": 1e9}},
        "recomputation_flops": {"operator": 0.0, "grown": 2e12},
    }  # fmt: skip
    cost = {"phases": {"grown": {"device_hours": 0.025, "energy_kwh": None, "co2_kg": None}}}
    rows = {row[0]: row[1:] for row in phase_rows({"phases": phases, "cost": cost})}
    assert all(len(row) == len(PHASE_COLUMNS) - 1 for row in rows.values())
    assert rows["small model, training"][:2] == ["not measured", "not measured"]
    assert rows["grown, training"] == [
        "6 TFLOP", "5 M", "90.0 s", "0.025 h", "not measured", "not measured"
    ]  # fmt: skip
    assert rows["grown, 4 evaluations (not charged)"][0] == "1 GFLOP"
    assert rows["grown, recomputation (not charged)"][0] == "2 TFLOP"
    assert "learning the operator, recomputation (not charged)" not in rows
    assert phase_rows(summary_of("an older run")) == []
