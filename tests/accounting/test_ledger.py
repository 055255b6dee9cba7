"""The ledger at several losses, phases and energy, all by hand."""

from __future__ import annotations

import pytest

from ligo.accounting.energy import Footprint, assumption, footprint
from ligo.accounting.flops import model_flops, recomputed_flops
from ligo.accounting.phases import cost, phases
from ligo.accounting.savings import FREE, Point, Spent, Target, savings_by_target, targets
from ligo.families.base import family_of
from tests.conftest import tiny_config


def points(*losses: float) -> list[Point]:
    return [Point(100 * i, 1e9 * i, float(i), loss) for i, loss in enumerate(losses)]


SCRATCH = points(6, 5, 4.5, 4, 3.6, 3.4, 3.2, 3.1, 3.0)  # 8e9 FLOPs, 800 tokens, 8 seconds


def test_targets_are_the_losses_on_the_way() -> None:
    assert targets(SCRATCH, "scratch") == [
        Target(3.6, "scratch", 0.5), Target(3.2, "scratch", 0.75), Target(3.1, "scratch", 0.9),
        Target(3.0, "scratch", 1.0),
    ]  # fmt: skip


def test_a_share_before_the_first_evaluation_is_no_target() -> None:
    assert [target.share for target in targets(points(6, 3), "scratch")] == [1.0]


def test_each_target_is_counted_in_flops_tokens_and_seconds() -> None:
    grown = points(4, 3.5, 3.2, 3.05)
    operator, small = Spent(1e9, 50, 3.0), Spent(2e9, 300, None)
    rows = savings_by_target(grown, SCRATCH, targets(SCRATCH, "scratch"), operator=operator, small=small)
    found = {(row.target.share, row.convention): row for row in rows}
    early = found[0.5, "small model sunk"]
    assert early.measures["flops"].saving == pytest.approx(1 - (1 + 1) / 4)
    assert early.measures["tokens"].saving == pytest.approx(1 - (50 + 100) / 400)
    assert early.measures["wall_s"].saving == pytest.approx(1 - (3 + 1) / 4)
    charged = found[0.75, "small model charged"]
    assert charged.measures["flops"].saving == pytest.approx(1 - (2 + 1 + 2) / 6)
    assert charged.measures["tokens"].saving == pytest.approx(1 - (300 + 50 + 200) / 600)
    assert charged.measures["wall_s"].saving is None  # nobody recorded the small model's time


def test_what_is_not_reached_is_none_in_every_measure() -> None:
    rows = savings_by_target(
        points(4, 3.3, 3.15), SCRATCH, targets(SCRATCH, "scratch"), operator=FREE, small=FREE
    )
    reached = {row.target.share: row.reached for row in rows}
    assert reached == {0.5: True, 0.75: True, 0.9: False, 1.0: False}
    for row in rows:
        assert all((parts.saving is not None) == row.reached for parts in row.measures.values())
        assert row.as_json()["tokens"]["grown"] is None or row.reached


def test_the_baseline_too_must_stay_below() -> None:
    """A dip of the scratch run at half of its way neither makes its cost smaller nor larger than it was."""
    dips = points(6, 5, 3.3, 4, 3.0)
    aims = targets(dips, "scratch", (0.5,))
    assert aims == [Target(3.3, "scratch", 0.5)]
    sunk, _ = savings_by_target(points(4, 3.2), dips, aims, operator=FREE, small=FREE)
    assert sunk.measures["flops"].baseline == 4e9
    assert sunk.measures["flops"].saving == pytest.approx(0.75)


def test_phases_keep_evaluation_and_recomputation_apart() -> None:
    results = {
        "learn": {"flops": 70.0, "recomputed_flops": 7.0, "tokens": 5, "wall_s": 1.0, "ranks": 2},
        "write": {"build_flops": 3},
        "train": {"flops": 600.0, "tokens": 20, "wall_s": 1800.0, "ranks": 4, "evaluation_tokens": 10},
        "scratch": {"flops": 900.0, "tokens": 30, "wall_s": 3600.0},  # of an older run
    }
    records = [{"arm": "grown", "eval/loss": 3.0}, {"arm": "grown"}, {"arm": "grown", "eval/loss": 2.9}]
    found = phases(
        results,
        {"flops": 11.0, "wall_s": 7200.0, "ranks": 2},
        records,
        {"grown": 2, "scratch": 2},
        {"grown": 0.25},
    )
    assert found["small"] == {"flops": 11.0, "tokens": None, "wall_s": 7200.0, "ranks": 2}
    assert found["operator"]["flops"] == 70.0 and found["build"]["flops"] == 3
    assert found["training"]["grown"] == {"flops": 600.0, "tokens": 20, "wall_s": 1800.0, "ranks": 4}
    assert found["evaluation"]["grown"] == {"times": 2, "flops": 2 * 10 * 2}
    assert found["evaluation"]["scratch"] == {"times": 0, "flops": None}
    assert found["recomputation_flops"] == {"operator": 7.0, "grown": 150.0, "scratch": None}
    spent = cost(found, 300.0, 400.0)["phases"]
    assert spent["small"] == {"device_hours": 4.0, "energy_kwh": 1.2, "co2_kg": pytest.approx(0.48)}
    assert spent["grown"] == {"device_hours": 2.0, "energy_kwh": 0.6, "co2_kg": pytest.approx(0.24)}
    assert spent["scratch"] == {"device_hours": None, "energy_kwh": None, "co2_kg": None}


def test_recomputing_layers_leaves_the_head_out() -> None:
    config = tiny_config(tie_word_embeddings=False)
    family = family_of(config)
    head = 2 * config["vocab_size"] * config["hidden_size"]
    assert recomputed_flops(family, 16) == model_flops(family, 16).forward - head


def test_energy_is_unknown_without_an_assumption() -> None:
    assert footprint(3600.0, 8, None, 400.0) == Footprint(8.0, None, None)
    assert footprint(3600.0, 8, 500.0, None) == Footprint(8.0, 4.0, None)
    assert footprint(None, 8, 500.0, 400.0) == Footprint(None, None, None)
    assert "hardware.watts" in assumption(None, 400.0)
    assert (
        assumption(500.0, 400.0) == "an estimate, not metered: 500 W per device at work; 400 g of CO2 per kWh"
    )
