"""Moments grow as gradients do: float64 algebra on stock models; and which coordinates are new."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ligo.core.errors import CheckpointError, NumericsError, PlanError
from ligo.families.base import Family, family_of
from ligo.families.spec import HEADS, RESIDUAL, Role, layout_spaces
from ligo.families.stock import as_on_disk
from ligo.growth.coordinates import is_new, new_coordinates, read_new_coordinates, write_new_coordinates
from ligo.growth.moments import grow_moments
from ligo.growth.noise import new_places
from ligo.growth.plan import GrowthPlan, TensorJob, axis_factors, check_moments, plan_growth
from ligo.growth.verify import staying_double
from ligo.learning.functional import LearnedMaps, detached
from ligo.operators.axes import map_axis
from ligo.operators.config import OperatorConfig
from tests.families.tiny import TINY
from tests.families.tiny_others import OTHERS
from tests.growing import Grown, grow, grow_model, on_disk_weights, operator, probe

FAMILIES = {**TINY, **OTHERS}
WITH_HEADS = [name for name, config in OTHERS.items() if family_of(config).has_head]
# rounding of a float64 backward pass, in units of the model's largest gradient; some are zero but for rounding (a
# bias of all keys moves no score against another)
ROUNDING = 1e-12
ROUNDING_FLOAT32 = 1e-5  # the same where maps are kept in float32

WIDE = dict(hidden_size=64, num_heads=8, num_kv_heads=4, ffn_size=96)
ODD = dict(hidden_size=48, num_layers=3, num_heads=6, ffn_size=60)  # new query heads join old key/value heads
RATHER_ODD = dict(hidden_size=60, num_heads=6, num_kv_heads=3, ffn_size=60)


def gradients(model: Any, family: Family) -> dict[str, Tensor]:
    """Of the loss on one batch, by name on disk; float64."""
    inputs = probe(family)
    model.set_experts_implementation("eager")
    with staying_double():
        logits = model(**{"pixel_values" if inputs.is_floating_point() else "input_ids": inputs}).logits
        if logits.ndim == 2:  # classes
            loss = F.cross_entropy(logits, torch.tensor([0, 1]))
        else:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs[:, 1:].flatten())
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), found, strict=True)]
    return as_on_disk(model, dict(zip(parameters, grads, strict=True)))


class Gradients:
    """The gradients of a small model and of the model grown from it, on the same batch, before any step."""

    def __init__(self, grown: Grown, rounding: float = ROUNDING) -> None:
        assert grown.plan.exactness.exact
        self.plan = grown.plan
        self.small, self.found = (
            gradients(grown.small, self.plan.small),
            gradients(grown.model, self.plan.target),
        )
        self.weights = on_disk_weights(grown.small)
        self.largest = max(float(gradient.abs().max()) for gradient in self.found.values())
        self.rounding = rounding * self.largest

    def moments(self, how: str = "grow") -> dict[str, tuple[Tensor, Tensor]]:
        """Grown from moments of one step: the gradient and its square."""
        grown = grow_moments(
            self.plan, self.plan.maps, lambda name, moment: self.small[name] ** (2 if "sq" in moment else 1), how,
            weights=self.weights.__getitem__, dtype=torch.float64,
        )  # fmt: skip
        return {name: (first, second) for name, first, second in grown}

    def other(self, power: int = 1) -> set[str]:
        """Tensors whose grown moment is not that of the grown model's own gradient."""
        return {
            name
            for name, moments in self.moments().items()
            if float((moments[power - 1] - self.found[name] ** power).abs().max())
            > self.rounding * self.largest ** (power - 1)
        }

    def check_sums_over_copies(self, names: set[str]) -> None:
        """E^T G' = G S^T: what every exact growth keeps of the gradient of what writes the residual stream."""
        for name in names:
            job = self.plan.job_of[name]
            axis = next(i for i, at in enumerate(job.spec.axes) if at == residual_axis(job))
            expand = torch.from_numpy(self.plan.maps.spaces[RESIDUAL].expand.matrix())
            for grown in (self.found[name], self.moments()[name][0]):
                summed = torch.tensordot(grown, expand, dims=([axis], [0])).movedim(-1, axis)
                expected = self.small[job.source_name(self.plan.maps.layers.main_source(job.spec.layer or 0))]
                for other, at in enumerate(job.spec.axes):
                    if other != axis:
                        pick = axis_factors(job.spec, other, self.plan.maps.dual())
                        expected = map_axis(expected, other, at.layout, pick, self.plan.small.spaces)
                torch.testing.assert_close(summed, expected, rtol=0, atol=self.rounding)


def residual_axis(job: TensorJob) -> Any:
    return next((at for at in job.spec.axes if at.role is Role.WRITE and at.layout == RESIDUAL), None)


def inserted_ends(plan: GrowthPlan) -> set[str]:
    """Inserted layers add zero, so that nothing reaches their inside; what ends them has a gradient of its own."""
    layers = plan.maps.layers.identity_layers
    return {job.spec.name for job in plan.jobs if job.spec.layer in layers and job.spec.ends_block}


def residual_writers(plan: GrowthPlan) -> set[str]:
    return {job.spec.name for job in plan.jobs if residual_axis(job) is not None}


def gradients_of(family: str, wanted: Mapping[str, int], width: str = "scaled_duplication") -> Gradients:
    config = FAMILIES[family]
    known = {k: v for k, v in wanted.items() if k != "num_kv_heads" or "num_key_value_heads" in config}
    return Gradients(grow(config, known, width, noise=0.0))


# --- the algebra -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [WIDE, ODD, RATHER_ODD], ids=["wide", "odd", "rather odd"])
@pytest.mark.parametrize(
    "family",
    ["llama", "llama tied", "llama biases", "qwen3 tied", "gemma2", "olmo2", "phi3", "mixtral", "qwen3_moe"],
)
def test_the_grown_gradient_is_the_dual_of_the_small_one(family: str, wanted: dict[str, int]) -> None:
    both = gradients_of(family, wanted)
    for power in (1, 2):
        assert both.other(power) == inserted_ends(both.plan)


@pytest.mark.parametrize("family", [f for f in WITH_HEADS if "bert" not in f])
def test_shifts_and_layer_norms_at_whole_ratios(family: str) -> None:
    both = gradients_of(family, dict(hidden_size=64, num_heads=8, ffn_size=96, num_layers=3))
    for power in (1, 2):
        assert both.other(power) == inserted_ends(both.plan)


@pytest.mark.parametrize("family", [f for f in WITH_HEADS if "bert" in f])
def test_norms_after_the_blocks(family: str) -> None:
    both = gradients_of(family, dict(hidden_size=64, num_heads=8, ffn_size=96))
    for power in (1, 2):
        assert both.other(power) == set()


def test_average_expansion_changes_only_the_gradient_of_what_writes_the_stream() -> None:
    """LayerNorm's mean runs over the remainder too, which no reader of the small model tells apart."""
    both = gradients_of("gpt2", dict(hidden_size=48, num_heads=6, ffn_size=65))
    assert both.other() == residual_writers(both.plan)
    both.check_sums_over_copies(residual_writers(both.plan))


@pytest.mark.parametrize("family", ["llama", "llama tied", "gemma2"])
def test_uneven_reading_changes_only_the_gradient_of_what_writes_the_stream(family: str) -> None:
    both = gradients_of(family, WIDE, "lemon")
    post_norms = {job.spec.name for job in both.plan.jobs if job.spec.ends_block and len(job.shape) == 1}
    assert both.other() == residual_writers(both.plan) | post_norms
    if not post_norms:
        both.check_sums_over_copies(residual_writers(both.plan))


def test_uneven_reading_of_heads_and_units_is_exact() -> None:
    assert gradients_of("llama", RATHER_ODD, "lemon").other(2) == set()


@pytest.mark.parametrize("family", ["llama", "llama tied"])
@pytest.mark.parametrize("wanted", [WIDE, ODD, RATHER_ODD], ids=["wide", "odd", "rather odd"])
def test_padding_leaves_out_heads_that_compute_and_are_not_read(family: str, wanted: dict[str, int]) -> None:
    """A new query head of an old key/value head averages its values, which the output projection begins to see."""
    both = gradients_of(family, wanted, "pad")
    unread = {n for n in both.found if n.endswith("o_proj.weight")} if wanted is ODD else set()
    for power in (1, 2):
        assert both.other(power) == inserted_ends(both.plan) | unread
    for name in unread - inserted_ends(both.plan):
        new = new_coordinates(both.plan)[name][1]
        first, found = both.moments()[name][0], both.found[name]
        torch.testing.assert_close(first[:, ~new], found[:, ~new], rtol=0, atol=both.rounding)
        assert not first[:, new].any()


def test_folded_scales_start_at_zero_and_their_readers_have_the_gradient_of_the_product() -> None:
    both = gradients_of("llama", {**ODD, "num_layers": 3}, "isometry")
    scales = {name for name in both.found if "norm" in name}
    inserted = {n for n in scales if n.startswith("model.layers.1.")}  # nothing reaches the inside of these
    assert both.other() == inserted_ends(both.plan) | scales - inserted
    assert all(not moment.any() for name in scales for moment in both.moments()[name])
    assert all((moments[1] >= 0).all() for moments in both.moments().values())


@pytest.mark.parametrize("width", ["scaled_duplication", "lemon", "pad"])
def test_an_update_by_grown_moments_is_the_small_one_copied(width: str) -> None:
    """Adam divides the scale of a map out again: m' / sqrt(v') is m / sqrt(v) of the same unit, or nothing."""
    plan = plan_growth(FAMILIES["llama tied"], ODD, operator(width))
    generator = torch.Generator().manual_seed(0)
    small = {
        s.name: torch.rand(s.shape(plan.small.spaces), generator=generator, dtype=torch.float64) + 1
        for s in plan.small.tensors
    }
    grown = grow_moments(
        plan, plan.maps, lambda name, moment: small[name] if "sq" in moment else -small[name], "grow",
        weights=small.__getitem__, dtype=torch.float64,
    )  # fmt: skip
    for name, first, second in grown:
        job = plan.job_of[name]
        if job.spec.layer in plan.maps.layers.identity_layers:
            assert not first.any() and not second.any()
            continue
        layer = 0 if job.spec.layer is None else plan.maps.layers.main_source(job.spec.layer)
        updates = torch.where(second > 0, first / second.sqrt(), 0.0)
        expected = -small[job.source_name(layer)].sqrt()
        assert set(updates.flatten().round(decimals=9).tolist()) - {0.0} == set(
            expected.flatten().round(decimals=9).tolist()
        )


@pytest.mark.parametrize("family", ["llama", "llama tied"])
@pytest.mark.parametrize("per_layer", [False, True])
def test_learned_maps_that_have_not_moved_yet(family: str, per_layer: bool) -> None:
    """Their residual map counts as one that mixes, so that scales are folded into their readers."""
    plan = plan_growth(FAMILIES[family], ODD, operator())
    config = OperatorConfig(init="exact", per_layer=per_layer)
    plan = replace(plan, maps=detached(LearnedMaps(plan, config)()))
    both = Gradients(grow_model(plan, noise=0.0), rounding=ROUNDING_FLOAT32)
    scales = {name for name in both.found if "norm" in name}
    inserted = {n for n in scales if n.startswith("model.layers.1.")}
    assert both.other() == inserted_ends(both.plan) | scales - inserted


def test_a_table_that_is_no_longer_both_input_and_output_starts_at_zero() -> None:
    both = gradients_of("llama tied", ODD, "isometry")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert all(not moment.any() for moment in both.moments()[name])


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_larger_heads(family: str) -> None:
    both = gradients_of(family, dict(hidden_size=64) if family == "phi3" else dict(head_dim=16))
    assert both.other(2) == set()


def test_larger_heads_under_a_norm_leave_out_queries_and_new_key_coordinates() -> None:
    """New query coordinates are copies that zero keys meet, so keys have a gradient there and norms mix it."""
    both = gradients_of("qwen3", dict(head_dim=16))
    assert both.other() == {n for n in both.found if n.endswith(("q_proj.weight", "k_proj.weight"))}
    for name in (n for n in both.found if n.endswith("k_proj.weight")):
        new = new_coordinates(both.plan)[name][0]
        first, found = both.moments()[name][0], both.found[name]
        torch.testing.assert_close(first[~new], found[~new], rtol=0, atol=both.rounding)


def test_copied_experts_share_their_gradient() -> None:
    both = gradients_of("mixtral", dict(num_experts=8, experts_per_token=4))
    assert both.other(2) == set()


def test_experts_made_of_a_dense_block_share_its_gradient_on_average() -> None:
    plan = plan_growth(TINY["mistral"], dict(num_experts=4, experts_per_token=2), operator())
    ones = {spec.name: torch.ones(spec.shape(plan.small.spaces)) for spec in plan.small.tensors}
    grown = {name: (first, second) for name, first, second in grow_moments(
        plan, plan.maps, lambda name, _: ones[name], "grow", weights=ones.__getitem__)}  # fmt: skip
    for job in plan.jobs:
        expected = 0.0 if job.source is None else 1 / 4 if job.spec.expert is not None else 1.0
        assert torch.equal(grown[job.spec.name][0], torch.full(job.shape, expected))
        assert torch.equal(grown[job.spec.name][1], torch.full(job.shape, expected**2))


# --- old coordinates, new coordinates ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        *(("llama tied", wanted) for wanted in (WIDE, ODD, RATHER_ODD, dict(head_dim=16))),
        ("mixtral", {**ODD, "num_experts": 8, "experts_per_token": 4}),
        ("gpt2", dict(hidden_size=48, num_heads=6, ffn_size=65, num_layers=3)),
    ],
    ids=["wide", "odd", "rather odd", "larger heads", "experts", "LayerNorm"],
)
@pytest.mark.parametrize("width", ["scaled_duplication", "pad", "net2net", "lemon", "aki"])
@pytest.mark.parametrize("depth", ["zero_block", "stack"])
def test_kept_moments_are_at_the_first_copies_and_nowhere_else(
    family: str, wanted: dict[str, int], width: str, depth: str
) -> None:
    plan = plan_growth(FAMILIES[family], wanted, operator(width, depth))
    small = {s.name: torch.rand(s.shape(plan.small.spaces)) + 1 for s in plan.small.tensors}
    kept = grow_moments(plan, plan.maps, lambda name, _: small[name], "keep_old", weights=small.__getitem__)
    places, found = new_coordinates(plan), set()
    for name, first, second in kept:
        new = is_new(places[name])
        assert torch.equal(first, second)
        assert torch.equal(first == 0, new)
        if not new.all():
            job = plan.job_of[name]
            source = job.source_name(
                plan.maps.layers.main_source(job.spec.layer) if job.spec.layer is not None else 0
            )
            assert torch.equal(first[~new].sort().values, small[source].flatten().sort().values)
            found.add(source)
    assert found == set(small)  # none is lost, and none is there twice


@pytest.mark.parametrize("width", ["scaled_duplication", "pad", "net2net", "lemon"])
def test_new_places_are_those_of_the_noise(width: str) -> None:
    plan = plan_growth(FAMILIES["llama"], WIDE, operator(width))
    for name, axes in new_coordinates(plan).items():
        for mine, theirs in zip(axes, new_places(plan.job_of[name].spec, plan, plan.maps), strict=True):
            assert np.array_equal(mine, theirs)


def test_inserted_layers_and_fresh_tensors_are_new_whole() -> None:
    plan = plan_growth(
        FAMILIES["mistral"], dict(num_layers=3, num_experts=4, experts_per_token=2), operator()
    )
    inserted = plan.maps.layers.identity_layers
    assert inserted
    for name, axes in new_coordinates(plan).items():
        job = plan.job_of[name]
        whole = job.spec.layer in inserted or job.source is None or (job.spec.expert or 0) > 0
        assert bool(is_new(axes).all()) == whole
        assert bool(is_new(axes).any()) == whole


def test_the_file_of_new_coordinates_can_be_read_back(tmp_path: Path) -> None:
    plan = plan_growth(FAMILIES["llama tied"], ODD, operator())
    path = tmp_path / "new_coordinates.safetensors"
    write_new_coordinates(path, plan)
    expected, found = new_coordinates(plan), read_new_coordinates(path)
    assert list(expected) == [job.spec.name for job in plan.jobs]
    assert expected.keys() == found.keys()
    for name, axes in expected.items():
        assert all(np.array_equal(one, other) for one, other in zip(axes, found[name], strict=True))
        assert is_new(found[name]).shape == plan.job_of[name].shape
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"which coordinates are new(.|\n)*stages=\[write"):
        read_new_coordinates(path)


def test_where_coordinates_are_mixed_none_is_old() -> None:
    plan = plan_growth(FAMILIES["llama"], ODD, operator("isometry"))
    for name, axes in new_coordinates(plan).items():
        for at, places in zip(plan.job_of[name].spec.axes, axes, strict=True):
            assert RESIDUAL not in set(layout_spaces(at.layout)) or places.all()
    with pytest.raises(PlanError, match=r"mixes the coordinates(.|\n)*optimizer_state=grow"):
        check_moments(plan, "keep_old")
    check_moments(plan, "grow")
    check_moments(plan_growth(FAMILIES["llama"], ODD, operator()), "keep_old")


def test_heads_are_told_apart_where_new_ones_stand_between_old_ones() -> None:
    plan = plan_growth(FAMILIES["llama"], ODD, operator())
    axes = new_coordinates(plan)["model.layers.0.self_attn.q_proj.weight"]
    assert plan.shapes.sizes(HEADS) == (4, 6)
    assert axes[0].reshape(6, -1).all(1).tolist() == [False, False, True, False, False, True]


def test_reset_grows_nothing_and_broken_moments_are_named() -> None:
    plan = plan_growth(FAMILIES["llama"], ODD, operator())
    small = {s.name: torch.ones(s.shape(plan.small.spaces)) for s in plan.small.tensors}

    def grown(how: str, read: Callable[[str, str], Tensor]) -> list[Any]:
        return list(grow_moments(plan, plan.maps, read, how, weights=small.__getitem__))

    assert grown("reset", lambda name, moment: small[name]) == []
    with pytest.raises(NumericsError, match=r"model.norm.weight are not finite(.|\n)*optimizer_state=reset"):
        grown("grow", lambda name, moment: small[name] / (0 if "model.norm" in name else 1))
