"""The algebra of maps, in float64, against dense matrices, and every claim that a map makes of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ligo.core.errors import PlanError
from ligo.families.spec import (
    FFN,
    HEADS,
    KEY_DIM,
    QUERY_DIM,
    RESIDUAL,
    Norm,
    Space,
    concat,
    layout_key,
    layout_size,
    product,
)  # fmt: skip
from ligo.growth.plan import plan_growth
from ligo.operators.axes import layout_flags, layout_flops, map_axis, project
from ligo.operators.base import WIDTH_OPERATORS
from ligo.operators.copying import (
    cyclic_index,
    duplicated,
    grouped_head_index,
    head_dim_maps,
    residual_copies,
    vocabulary_map,
)  # fmt: skip
from ligo.operators.factors import CopiesThenMean, Dense, Factor, Select
from ligo.operators.lemon import uneven_shares, zero_expanded
from ligo.operators.maps import SpaceMap
from ligo.operators.net2net import random_index
from tests.conftest import tiny_config
from tests.growing import operator

TIGHT = 1e-10  # rounding of float64 products of a few dozen terms

sizes = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(n, 3 * n + 2)))


def spaces(**units: int) -> dict[str, Space]:
    return {name: Space(name=name, size=size) for name, size in units.items()}


# --- factors --------------------------------------------------------------------------------------------


def factors(small: int, target: int) -> list[Factor]:
    rng = np.random.default_rng([small, target])
    index = np.concatenate([np.arange(small), rng.integers(0, small, target - small)])
    return [
        Select(index, rng.uniform(0.5, 2, target), small),
        Dense(rng.standard_normal((target, small))),
        CopiesThenMean(cyclic_index(small, target - target % small), small, target, 1.3),
    ]


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_every_factor_acts_as_its_matrix(pair: tuple[int, int]) -> None:
    small, target = pair
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((small, 3)))
    y = torch.from_numpy(np.random.default_rng(1).standard_normal((target, 3)))
    for factor in factors(small, target):
        dense = factor.matrix()
        np.testing.assert_allclose(factor.apply(x), dense @ x.numpy(), atol=TIGHT)
        np.testing.assert_allclose(factor.project(y), dense @ np.linalg.pinv(dense) @ y.numpy(), atol=1e-8)
        np.testing.assert_allclose(factor.squared().matrix(), dense**2, atol=TIGHT)
        firsts = dense[factor.first_copies()]
        if not isinstance(factor, Dense):
            np.testing.assert_array_equal(np.count_nonzero(firsts, axis=1), 1)
            np.testing.assert_array_equal(firsts.argmax(axis=1), np.arange(small))


# --- layouts --------------------------------------------------------------------------------------------


@given(sizes, sizes, st.integers(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_layout_acts_like_kronecker_products_and_blocks(
    first: tuple[int, int], second: tuple[int, int], axis: int
) -> None:
    maps = {HEADS: factors(*first)[0], QUERY_DIM: factors(*second)[1], FFN: factors(*second)[0]}
    small = spaces(heads=first[0], query_dim=second[0], ffn=second[0])
    layout = concat(product(HEADS, concat(QUERY_DIM, FFN)), 2, product(3, HEADS), FFN)
    eye, heads = np.eye, maps[HEADS].matrix()
    inner = _blocks(maps[QUERY_DIM].matrix(), maps[FFN].matrix())
    dense = _blocks(np.kron(heads, inner), eye(2), np.kron(eye(3), heads), maps[FFN].matrix())
    shape = (layout_size(layout, small), 5) if axis == 0 else (5, layout_size(layout, small))
    tensor = np.random.default_rng(2).standard_normal(shape)
    grown = map_axis(torch.from_numpy(tensor), axis, layout, maps.get, small)
    np.testing.assert_allclose(grown, dense @ tensor if axis == 0 else tensor @ dense.T, atol=TIGHT)


def _blocks(*matrices: np.ndarray) -> np.ndarray:
    rows, columns = (sum(m.shape[axis] for m in matrices) for axis in (0, 1))
    dense, row, column = np.zeros((rows, columns)), 0, 0
    for m in matrices:
        dense[row : row + m.shape[0], column : column + m.shape[1]] = m
        row, column = row + m.shape[0], column + m.shape[1]
    return dense


def test_a_map_under_the_layouts_own_words_goes_before_those_of_its_parts() -> None:
    layout = product(HEADS, QUERY_DIM)
    assert layout_key(layout) == "heads*query_dim"
    whole = Dense(np.random.default_rng(0).standard_normal((9, 6)))
    maps: dict[str, Factor] = {"heads*query_dim": whole, HEADS: factors(2, 4)[0]}
    tensor = torch.ones(6, 2, dtype=torch.float64)
    grown = map_axis(tensor, 0, layout, maps.get, spaces(heads=2, query_dim=3))
    np.testing.assert_allclose(grown, whole.matrix() @ tensor.numpy(), atol=TIGHT)


def test_flops_of_a_layout_are_those_of_its_dense_products_in_turn() -> None:
    dense = {HEADS: Dense(np.ones((4, 2))), QUERY_DIM: Dense(np.ones((6, 3)))}
    found = layout_flops(product(HEADS, QUERY_DIM), 5, dense.get, spaces(heads=2, query_dim=3))
    assert found == 2 * 4 * 2 * (3 * 5) + 2 * 6 * 3 * (4 * 5)


def test_flags_of_a_product_are_set_where_any_part_is() -> None:
    flags = {HEADS: np.array([False, True]), QUERY_DIM: np.array([True, False, False])}
    found = layout_flags(concat(product(HEADS, QUERY_DIM), 1), flags.get, spaces(heads=2, query_dim=3))
    assert found.tolist() == [True, False, False, True, True, True, False]


@given(sizes, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_noise_outside_the_span_vanishes_on_every_expanded_activation(
    pair: tuple[int, int], unit: int
) -> None:
    small, target = pair
    layout, rng = product(HEADS, QUERY_DIM), np.random.default_rng(0)
    for factor in factors(small, target):
        drawn = torch.from_numpy(rng.standard_normal((7, target * unit)))
        projection = {HEADS: project(factor)}
        left = drawn - map_axis(drawn, 1, layout, projection.get, spaces(heads=target, query_dim=unit))
        assert float((left @ torch.from_numpy(np.kron(factor.matrix(), np.eye(unit)))).abs().max()) < 1e-8
        if target > small:
            assert float(left.abs().max()) > 0


# --- what a map says of itself --------------------------------------------------------------------------


def check_claims(space_map: SpaceMap) -> None:
    """Every claim of a space map, against its dense matrices."""
    expand, seen, reduce = (f.matrix() for f in (space_map.expand, space_map.seen, space_map.reduce))
    target, small = expand.shape
    ratio, eye = target / small, np.eye(small)
    if space_map.faithful:
        np.testing.assert_allclose(reduce.T @ seen, eye, atol=TIGHT)
        np.testing.assert_allclose(
            reduce.T @ expand, eye, atol=TIGHT
        )  # readers of the stream before its norm
    if Norm.RMS in space_map.keeps:
        np.testing.assert_allclose(expand.T @ expand, ratio * eye, atol=TIGHT)
        np.testing.assert_allclose(seen, expand, atol=TIGHT)
    if Norm.LAYER in space_map.keeps:
        centre, centre_small = (np.eye(n) - 1 / n for n in (target, small))
        np.testing.assert_allclose(
            centre @ expand, seen @ centre_small, atol=TIGHT
        )  # x' - mean(x') = N (x - mean(x))
        centred = centre @ expand
        np.testing.assert_allclose(
            centred.T @ centred, ratio * centre_small, atol=TIGHT
        )  # the variance stays
    if space_map.gain is not None and space_map.faithful:
        gains = np.random.default_rng(0).uniform(0.5, 2, small)
        copied = space_map.gain.matrix() @ gains
        np.testing.assert_allclose(copied[:, None] * seen, seen * gains, atol=TIGHT)
    if space_map.head_scale is not None and space_map.faithful:
        np.testing.assert_allclose(expand.T @ (space_map.head_scale[:, None] * seen), eye, atol=TIGHT)
    if space_map.fresh is not None:
        assert not reduce[space_map.fresh].any()


@given(sizes, st.sampled_from(list(Norm)))
@settings(max_examples=80, deadline=None)
def test_residual_copies_keep_the_norm_at_every_ratio(pair: tuple[int, int], norm: Norm) -> None:
    small, target = pair
    space_map = residual_copies(Space(name=RESIDUAL, size=small, norm=norm), target)
    assert norm in space_map.keeps
    assert space_map.faithful
    check_claims(space_map)


@given(sizes, st.booleans())
@settings(max_examples=60, deadline=None)
def test_duplicated_units_are_read_with_weights_that_sum_to_one(pair: tuple[int, int], uneven: bool) -> None:
    small, target = pair
    index = random_index(small, target)
    space_map = duplicated(index, small, uneven_shares(index, small) if uneven else None)
    assert space_map.faithful
    check_claims(space_map)
    if uneven:  # the copies of one unit are read with weights that all differ
        weights = space_map.reduce.matrix()
        for unit in range(small):
            read = weights[weights[:, unit] != 0, unit]
            assert len(set(np.round(read, 12))) == len(read)


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_zero_expansion_and_vocabularies_keep_their_claims(pair: tuple[int, int]) -> None:
    check_claims(zero_expanded(Space(name=RESIDUAL, size=pair[0], norm=Norm.RMS), pair[1]))
    vocabulary = vocabulary_map(*pair)
    check_claims(vocabulary)
    grown = vocabulary.expand.matrix()
    np.testing.assert_allclose(grown[pair[0] :], 1 / pair[0], atol=TIGHT)


@pytest.mark.parametrize("width", WIDTH_OPERATORS.names())
@pytest.mark.parametrize("wanted", [dict(hidden_size=64, num_heads=8, num_kv_heads=4, ffn_size=96),
                                    dict(hidden_size=48, num_heads=6, num_kv_heads=3, ffn_size=65, head_dim=16)])  # fmt: skip
def test_the_maps_of_every_operator_keep_their_claims(width: str, wanted: dict[str, int]) -> None:
    if width == "hypercloning" and wanted["hidden_size"] == 48:
        with pytest.raises(PlanError, match="needs whole width ratios"):
            plan_growth(tiny_config(), wanted, operator(width))
        return
    plan = plan_growth(tiny_config(), wanted, operator(width))
    assert set(plan.maps.spaces) >= set(plan.small.spaces)
    for space_map in plan.maps.spaces.values():
        check_claims(space_map)


# --- heads ----------------------------------------------------------------------------------------------


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


def rotate(x: np.ndarray, position: int, theta: float = 1e4) -> np.ndarray:
    """Rotary embedding of vectors [.., h] in rotate-half layout."""
    half = x.shape[-1] // 2
    angle = position * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


@given(st.integers(0, 500), sizes)
@settings(max_examples=40, deadline=None)
def test_mixing_whole_heads_commutes_with_rotary_positions_and_mixing_coordinates_does_not(
    position: int, pair: tuple[int, int]
) -> None:
    rng = np.random.default_rng(position)
    heads, mixing = rng.standard_normal((pair[0], 8)), rng.standard_normal((pair[1], pair[0]))
    np.testing.assert_allclose(rotate(mixing @ heads, position), mixing @ rotate(heads, position), atol=1e-8)
    if position:
        dense = rng.standard_normal((8, 8))
        assert np.abs(rotate(heads @ dense, position) - rotate(heads, position) @ dense).max() > 1e-3


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 4), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_larger_heads_give_the_scores_of_the_old_ones(
    query_at: int, key_at: int, half: int, factor: int
) -> None:
    small = Space(name=QUERY_DIM, size=2 * half, rotary=2 * half, score_scale=(2 * half) ** -0.5)
    target = Space(name=QUERY_DIM, size=factor * small.size, rotary=factor * small.size,
                   score_scale=(factor * small.size) ** -0.5)  # fmt: skip
    as_keys = [
        Space(name=KEY_DIM, size=s.size, rotary=s.rotary, score_scale=s.score_scale) for s in (small, target)
    ]
    rng = np.random.default_rng(query_at)
    query, key = rng.standard_normal((2, small.size))
    grown_query = head_dim_maps(small, target).expand.matrix() @ query
    grown_key = head_dim_maps(*as_keys).expand.matrix() @ key
    expected = rotate(query, query_at) @ rotate(key, key_at) * small.score_scale
    found = rotate(grown_query, query_at) @ rotate(grown_key, key_at) * target.score_scale
    np.testing.assert_allclose(found, expected, atol=1e-8)


# --- growing twice --------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.sampled_from(list(Norm)))
@settings(max_examples=40, deadline=None)
def test_two_whole_growths_are_the_growth_of_both(small: int, first: int, second: int, norm: Norm) -> None:
    def grown(source: int, target: int) -> SpaceMap:
        return residual_copies(Space(name=RESIDUAL, size=source, norm=norm), target)

    middle, target = small * first, small * first * second
    for part in ("expand", "reduce"):
        one, two, both = (
            getattr(grown(*p), part).matrix() for p in ((small, middle), (middle, target), (small, target))
        )
        np.testing.assert_allclose(two @ one, both, atol=TIGHT)


def test_two_uneven_growths_keep_the_norm_although_they_are_another_map() -> None:
    one = residual_copies(Space(name=RESIDUAL, size=4, norm=Norm.RMS), 6).expand.matrix()
    two = residual_copies(Space(name=RESIDUAL, size=6, norm=Norm.RMS), 9).expand.matrix()
    both = residual_copies(Space(name=RESIDUAL, size=4, norm=Norm.RMS), 9).expand.matrix()
    np.testing.assert_allclose((two @ one).T @ (two @ one), 9 / 4 * np.eye(4), atol=TIGHT)
    assert np.abs(two @ one - both).max() > 0.1
