"""Which window comes when: weights are met at every position, permutations are permutations, nothing is kept."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ligo.data.config import DataConfig, SourceConfig, source_weights
from ligo.data.order import Schedule, shuffled

LLAMA = [Fraction(str(part)) / 100 for part in (67, 15, 4.5, 4.5, 4.5, 2.5, 2)]
MIXTURES = {
    "one": [Fraction(1)],
    "halves": [Fraction(1, 2)] * 2,
    "sevenths": [Fraction(1, 7)] * 7,
    "thirds and a rest": [Fraction(1, 3), Fraction(1, 3), Fraction(1, 4), Fraction(1, 12)],
    "llama": LLAMA,
}


@pytest.mark.parametrize("name", MIXTURES)
def test_at_any_position_each_source_is_within_one_window_of_its_weight(name: str) -> None:
    weights = MIXTURES[name]
    source, _ = Schedule(weights).at(np.arange(1000))
    drawn = np.cumsum(source[:, None] == np.arange(len(weights)), axis=0)
    wanted = np.arange(1, 1001)[:, None] * np.array([float(weight) for weight in weights])
    assert np.abs(drawn - wanted).max() < 1


def test_many_random_mixtures_keep_within_one_window() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        units = generator.multinomial(500 - 6, generator.dirichlet([0.5] * 6)) + 1
        weights = [Fraction(int(count), 500) for count in units]
        schedule = Schedule(weights)
        for positions in (np.arange(501), np.arange(10**12, 10**12 + 501)):
            drawn = np.array([schedule.counts(int(position)) for position in positions])
            assert (drawn.sum(axis=1) == positions).all()
            wanted = [[int(p) * weight for weight in weights] for p in positions]
            errors = [
                [abs(int(d) - w) for d, w in zip(*pair, strict=True)]
                for pair in zip(drawn, wanted, strict=True)
            ]
            assert max(map(max, errors)) < 1


def test_the_place_within_a_source_is_the_number_of_times_it_came_before() -> None:
    schedule = Schedule(LLAMA)
    source, index = schedule.at(np.arange(700))
    for number in range(len(LLAMA)):
        assert index[source == number].tolist() == list(range(int((source == number).sum())))
    far = np.arange(10**15, 10**15 + 300)
    source, index = schedule.at(far)
    before = schedule.counts(10**15)
    assert all(index[source == number][0] == before[number] for number in range(len(LLAMA)))


@pytest.mark.parametrize("count", [1, 2, 3, 13, 64, 1000, 4097])
def test_every_epoch_is_a_permutation_and_another_one(count: int) -> None:
    numbers = np.arange(count)
    epochs = [
        shuffled(numbers, count, seed=7, source=source, epochs=np.full(count, epoch)).tolist()
        for epoch in range(3)
        for source in range(2)
    ]
    assert all(sorted(order) == list(range(count)) for order in epochs)
    if count > 10:
        assert len({tuple(order) for order in epochs}) == len(epochs)


def test_a_part_of_a_permutation_needs_nothing_of_the_rest() -> None:
    count = 10**13  # a permutation of so many would not fit any memory
    numbers = np.array([0, 1, count - 1])
    places = shuffled(numbers, count, seed=0, source=0, epochs=np.array([0, 0, 0]))
    assert len(set(places.tolist())) == 3
    assert ((places >= 0) & (places < count)).all()
    alone = [
        shuffled(numbers[i : i + 1], count, seed=0, source=0, epochs=np.zeros(1, int))[0] for i in range(3)
    ]
    assert places.tolist() == alone


def test_permutations_leave_no_trace_of_the_order_before() -> None:
    count = 1000
    orders = np.array(
        [
            shuffled(np.arange(count), count, seed=0, source=0, epochs=np.full(count, epoch))
            for epoch in range(200)
        ]
    )
    # each figure lies within four standard deviations of what chance gives
    correlation = np.corrcoef(orders[:, :-1].ravel(), orders[:, 1:].ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(orders.size)
    fixed = (orders == np.arange(count)).sum()  # a random permutation has one such place
    assert abs(fixed - 200) < 4 * np.sqrt(200)
    neighbours = (np.diff(orders, axis=1) == 1).sum()
    assert abs(neighbours - 200) < 4 * np.sqrt(200)
    halves = (orders[:, :500] < 500).mean()
    assert abs(halves - 0.5) < 4 * 0.5 / np.sqrt(200 * 500)


def test_weights_are_taken_exactly_where_they_can_be() -> None:
    def weights(*given: float) -> list[Fraction]:
        sources = {f"s{i}": SourceConfig(path="x", weight=weight) for i, weight in enumerate(given)}
        return list(source_weights(DataConfig(sources=sources)).values())

    assert (
        weights(67, 15, 4.5, 4.5, 4.5, 2.5, 2)
        == weights(0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02)
        == LLAMA
    )
    assert weights(0.333333, 0.333333, 0.333333) == [Fraction(1, 3)] * 3
    odd = weights(0.123456789, 0.876543211)
    assert sum(odd) == 1
    assert abs(odd[0] - Fraction("0.123456789")) < Fraction(1, 10**5)
