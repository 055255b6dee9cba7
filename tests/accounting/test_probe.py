"""The sizes that the probe of this machine's speed measures with."""

from __future__ import annotations

import pytest

from ligo.accounting.probe import Shape, _shrunk, measure


@pytest.mark.parametrize(
    ("size", "factor", "measured"),
    [(437, 1.0, 437), (768, 1.17, 640), (2048, 1.17, 1728), (48, 2.0, 24), (1, 9.0, 1)],
)
def test_a_size_is_measured_as_it_is_or_at_a_smaller_multiple_of_64(
    size: int, factor: float, measured: int
) -> None:
    assert _shrunk(size, factor) == measured


def test_all_rates_are_positive_and_finite() -> None:
    rates = measure(Shape(windows=1, length=16, width=8, ffn=16, heads=2, vocab=32), seconds=0.1)
    parts = [
        *rates.product_flops.values(),
        rates.attention_flops,
        rates.moved_bytes,
        rates.updated,
        rates.drawn,
    ]
    assert all(0 < rate < float("inf") for rate in [*parts, rates.stored_bytes, rates.op_s])
