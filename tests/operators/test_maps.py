"""The algebra of maps, in float64, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ligo.operators.maps import Dense, Select, on_axis
from ligo.operators.scaled_duplication import cyclic_index, duplicated, grouped_head_index, residual_map

sizes = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(n, 3 * n + 2)))


@given(sizes)
@settings(max_examples=60, deadline=None)
def test_residual_map_keeps_the_mean_square_at_every_ratio(pair: tuple[int, int]) -> None:
    small, target = pair
    space_map = residual_map(small, target)
    expand, reduce = space_map.expand.matrix(), space_map.reduce.matrix()
    np.testing.assert_allclose(expand.T @ expand, target / small * np.eye(small), atol=1e-12)
    np.testing.assert_allclose(reduce.T @ expand, np.eye(small), atol=1e-12)


@given(sizes)
@settings(max_examples=60, deadline=None)
def test_duplicated_units_are_read_with_weights_that_sum_to_one(pair: tuple[int, int]) -> None:
    space_map = duplicated(cyclic_index(*pair), pair[0])
    np.testing.assert_allclose(
        space_map.reduce.matrix().T @ space_map.expand.matrix(), np.eye(pair[0]), atol=1e-12
    )


@given(sizes, st.integers(1, 4), st.integers(0, 1))
@settings(max_examples=40, deadline=None)
def test_whole_units_move_together_like_a_kronecker_product(
    pair: tuple[int, int], unit: int, axis: int
) -> None:
    small, target = pair
    rng = np.random.default_rng(small * 100 + target)
    tensor = rng.standard_normal((small * unit, 5) if axis == 0 else (5, small * unit))
    select = Select(rng.integers(0, small, target), rng.standard_normal(target), small)
    kron = np.kron(select.matrix(), np.eye(unit))
    expected = kron @ tensor if axis == 0 else tensor @ kron.T
    for factor in (select, Dense(select.matrix())):
        grown = on_axis(factor.apply, torch.from_numpy(tensor), axis, unit)
        np.testing.assert_allclose(grown.numpy(), expected, atol=1e-12)


@given(sizes, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_what_is_left_of_noise_vanishes_on_every_expanded_activation(
    pair: tuple[int, int], unit: int
) -> None:
    small, target = pair
    expand = residual_map(small, target).expand
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((7, target * unit)))
    basis = torch.from_numpy(np.kron(expand.matrix(), np.eye(unit)))
    for factor in (expand, Dense(expand.matrix())):
        left = on_axis(factor.remove_span, noise, 1, unit)
        assert float((left @ basis).abs().max()) < 1e-10
    if target > small:
        assert float(left.abs().max()) > 0


@pytest.mark.parametrize(
    ("heads", "kv_heads", "index"),
    [
        ((4, 8), (2, 4), [0, 1, 2, 3, 0, 1, 2, 3]),
        ((4, 8), (2, 2), [0, 1, 0, 1, 2, 3, 2, 3]),
        ((4, 4), (2, 4), [0, 2, 1, 3]),
        ((3, 5), (3, 5), [0, 1, 2, 0, 1]),
    ],
)
def test_query_heads_follow_their_key_value_head(
    heads: tuple[int, int], kv_heads: tuple[int, int], index: list[int]
) -> None:
    found = grouped_head_index(heads, kv_heads)
    assert found.tolist() == index
    group, target_group = heads[0] // kv_heads[0], heads[1] // kv_heads[1]
    kv_of_target = cyclic_index(*kv_heads)
    for target_head, small_head in enumerate(found):
        assert small_head // group == kv_of_target[target_head // target_group]
