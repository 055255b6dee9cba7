"""The LiGO paper's Table 3, recomputed from its own counter; and what is left of it when weights are built once a pass.

Figures: Wang et al. (ICLR 2023, arXiv 2303.00980), table 3: BERT-Small -> BERT-Base, 215 thousand steps after 100,
500 and 1,000 steps of learning, 214 thousand after 10,000.
"""

from __future__ import annotations

import pytest

from ligo.accounting.published import PublishedCounter, published_saving

BASE = PublishedCounter(hidden_size=768, num_layers=12, ffn_size=3072, num_heads=12)
SMALL = PublishedCounter(hidden_size=512, num_layers=6, ffn_size=2048, num_heads=8)
BATCH, PASSES = 256, 4  # sequences; GPUs, each of which makes the weights once a step
FIRST_ROW = 0.4472
"""Saved by 100 steps of learning and 215 thousand more: printed as 44.7 %. It tells how long scratch was, up to rounding;
from 44.705 to 44.75 all other rows come out as printed."""


def operator_flops(steps: int, builds: int) -> float:
    return steps * BASE.operator_step(SMALL, BATCH, builds=builds)


def saving(operator_steps: int, main_steps: int, builds: int = BATCH) -> float:
    """With the scratch run as long as its first row says."""
    scratch = (215_000 * BASE.step(BATCH) + operator_flops(100, BATCH)) / (1 - FIRST_ROW)
    return published_saving(main_steps, BASE.step(BATCH), operator_flops(operator_steps, builds), scratch)


def test_a_step_of_either_bert() -> None:
    assert BASE.step(BATCH) == pytest.approx(1.5068e13, rel=1e-4)
    assert SMALL.step(BATCH) == pytest.approx(4.977e12, rel=1e-4)


@pytest.mark.parametrize(("steps", "flops"), [(100, 3.61e15), (500, 18.06e15), (1000, 36.13e15)])
def test_the_operator_costs_what_table_3_says(steps: int, flops: float) -> None:
    assert operator_flops(steps, BATCH) == pytest.approx(flops, rel=2e-3)


@pytest.mark.parametrize(
    ("steps", "main_steps", "percent"), [(500, 215_000, 44.5), (1000, 215_000, 44.2), (10_000, 214_000, 38.9)]
)
def test_savings_of_table_3_row_by_row(steps: int, main_steps: int, percent: float) -> None:
    assert round(100 * saving(steps, main_steps), 1) == percent


@pytest.mark.parametrize(("steps", "main_steps", "percent"), [(1000, 215_000, 44.5), (10_000, 214_000, 42.4)])
def test_building_weights_once_a_pass_instead_of_once_a_sequence(
    steps: int, main_steps: int, percent: float
) -> None:
    assert BASE.operator_step(SMALL, BATCH, builds=PASSES) / BASE.step(BATCH) == pytest.approx(
        1.02, abs=0.005
    )
    assert BASE.operator_step(SMALL, BATCH, builds=BATCH) / BASE.step(BATCH) == pytest.approx(2.40, abs=0.005)
    assert 100 * saving(steps, main_steps, PASSES) == pytest.approx(percent, abs=0.06)
