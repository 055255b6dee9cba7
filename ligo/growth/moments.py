"""Adam's moments, grown with the model.

If W' = E W P^T computes what W did, its gradient is G' = P G E^T: the maps change places (`GrowthMaps.dual`).
First moments are means of gradients and grow by these maps, second moments by their squares. What the small
moments say nothing of starts at zero: fresh tensors, inserted layers, scales that are now folded into their readers,
units that nothing reads yet, and a table that was input and output in one and no longer is. A vocabulary that
grows changes the loss; its old tokens keep their moments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ligo.checkpoint.optimizer import MOMENTS, ReadMoment
from ligo.core.errors import NumericsError
from ligo.core.log import progress
from ligo.families.spec import RESIDUAL
from ligo.growth.coordinates import new_tensors, old_places
from ligo.growth.execute import ReadTensor, grow_tensor, head_multiplier, sources
from ligo.growth.plan import GrowthPlan, TensorJob
from ligo.operators.maps import GrowthMaps


def grow_moments(
    plan: GrowthPlan, maps: GrowthMaps, read: ReadMoment, how: str, *, weights: ReadTensor,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[str, Tensor, Tensor]]:  # fmt: skip
    """The moments of every target tensor, in file order: (name, exp_avg, exp_avg_sq), one tensor at a time.

    Args:
        maps: those that the weights were grown with.
        how: `grow`: by the dual maps; `keep_old`: unchanged at the first copy of each small unit, zero elsewhere;
            `reset`: nothing.
        weights: of the small model; needed where gains were folded into their readers.
        dtype: to compute in.

    Raises:
        NumericsError: a moment is not finite; its tensor is named.
    """
    if how == "reset":
        return

    def small(name: str, moment: str) -> Tensor:
        return read(name, moment).to(dtype)

    def weight(name: str) -> Tensor:
        return weights(name).to(dtype)

    grow = _keeping(plan, small) if how == "keep_old" else _growing(plan, maps, small, weight)
    with progress("growing moments", len(plan.jobs)) as bar:
        for job in plan.jobs:
            first, second = (
                torch.zeros(job.shape, dtype=dtype) if moment is None else moment.contiguous()
                for moment in (grow(job, 1), grow(job, 2))
            )
            if not (first.isfinite().all() and second.isfinite().all()):
                raise NumericsError(
                    f"the grown moments of {job.spec.name} are not finite.\n"
                    "  Try: operator.optimizer_state=reset, or check the small run's optimiser state"
                )
            yield job.spec.name, first, second
            bar.advance()


_GrowMoment = Callable[[TensorJob, int], Tensor | None]
"""A job, and 1 or 2 for the first or second moment -> the moment; None where it starts at zero."""


def _keeping(plan: GrowthPlan, read: ReadMoment) -> _GrowMoment:
    kept, new = old_places(plan), new_tensors(plan)

    def grow(job: TensorJob, power: int) -> Tensor | None:
        if job.spec.name in new:
            return None
        source = sources(plan, kept, lambda name: read(name, MOMENTS[power - 1]))
        return grow_tensor(_plain(job), plan, kept, source)

    return grow


def _growing(plan: GrowthPlan, maps: GrowthMaps, read: ReadMoment, weights: ReadTensor) -> _GrowMoment:
    dual, dual_of_head = maps.dual(), _before_tied_head(maps).dual()
    by_power = {1: (dual, dual_of_head), 2: (dual.squared(), dual_of_head.squared())}
    copies = Counter(_expert_source(job) for job in plan.jobs)

    def grow(job: TensorJob, power: int) -> Tensor | None:
        if job.source is None or _is_untied(job, plan):
            return None

        def moment(name: str) -> Tensor:
            return read(name, MOMENTS[power - 1])

        # the gradient of W diag(g) is that of W, divided by g
        source = sources(plan, maps, moment, gains=weights, power=-power)
        before_head = job.spec.before_head and plan.target.dims.tied
        grown = grow_tensor(_plain(job), plan, by_power[power][before_head], source)
        factor = _multiplied(job, plan) / (copies[_expert_source(job)] if job.spec.expert is not None else 1)
        return grown if factor == 1.0 else grown * factor**power

    return grow


def _before_tied_head(maps: GrowthMaps) -> GrowthMaps:
    """The maps as the norm before a tied head sees them: the stream is read with what the embedding writes."""
    residual = maps.spaces[RESIDUAL]
    return replace(maps, spaces={**maps.spaces, RESIDUAL: replace(residual, reduce=residual.expand)})


def _plain(job: TensorJob) -> TensorJob:
    """The job without what is right for weights alone: offsets that the model adds, factors that it multiplies by."""
    assert job.source is not None
    return replace(
        job, spec=replace(job.spec, offset=0.0, multiplier=1.0), source=replace(job.source, multiplier=1.0)
    )


def _is_untied(job: TensorJob, plan: GrowthPlan) -> bool:
    """Whether it comes from a table that was input and output in one and no longer is."""
    source = job.source
    return source is not None and source.lookup and bool(source.aliases) and not plan.target.dims.tied


def _multiplied(job: TensorJob, plan: GrowthPlan) -> float:
    """The model multiplies what the tensor gives by m, so its gradient has a factor of m: m' / m.

    A table that is divided by so much more is read by a tied head, before which gradients are smaller by as much.
    """
    assert job.source is not None
    if job.spec.before_head and plan.target.dims.tied:
        return 1.0 / head_multiplier(plan)
    return job.spec.multiplier / job.source.multiplier


def _expert_source(job: TensorJob) -> tuple[int | None, str | None]:
    """Experts that come from one share its tokens, and so its gradient."""
    return job.spec.layer, job.source.name if job.source is not None and job.spec.expert is not None else None
