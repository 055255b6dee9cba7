"""The target run as a function of the maps: the stock model, with weights made where they are used.

A layer's weights are made when the layer runs and are gone when it is left, so the target is never held whole. A
matrix some of whose maps act on activations is not made at all: of x' = R x and t = P^T x' the stock module is given
the small width. What is read outside is read once for all that read it: queries, keys and values, gate and up.
The backward pass makes weights again instead of keeping them, and with `recompute="layers"` runs whole layers again,
of which only the inputs are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ligo.families.spec import layout_key
from ligo.families.stock import disk_pieces, joined, running_names, skeleton
from ligo.growth.execute import ReadSource, ReadTensor, TensorMaker, grow_core, make_tensor, sources
from ligo.growth.plan import GrowthPlan, TensorJob, axis_factors
from ligo.learning.cost import Use, uses
from ligo.operators.axes import map_axis, transposed
from ligo.operators.factors import CopiesThenRows, Dense, Factor
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NoiseLevel


@dataclass
class _Run:
    """One forward pass."""

    maps: GrowthMaps
    small: ReadSource
    outside: Mapping[str, frozenset[int]]
    make: Callable[[TensorJob], Tensor]
    """Makes a whole tensor of the target."""
    read: tuple[Tensor, Factor, Tensor] | None = field(default=None)
    """What was read outside last: input, factor, and the product."""


class GrownFunction:
    """`function(maps, read, outside)(input_ids=...)` is the target's output, whatever `outside` says."""

    def __init__(
        self,
        plan: GrowthPlan,
        *,
        recompute: str = "weights",
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            recompute: what the backward pass makes again: nothing, weights, or layers.
            seed: of what is random; the one that it will be written with.
            device: where it runs.
        """
        self._plan, self._recompute, self._seed, self._device = plan, recompute, seed, torch.device(device)
        self._model = skeleton(plan.target)
        for module in self._model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self._device))
        self._run: _Run | None = None
        self._pieces = dict(disk_pieces(self._model))
        self._pieces |= {alias: (spec.name,) for spec in plan.target.tensors for alias in spec.aliases}
        self._shapes = {name: tuple(p.shape) for name, p in self._model.named_parameters()}
        names = running_names(self._model)
        running = ((names.get(use.name, use.name), use) for use in uses(plan))
        # experts, which are joined in the running model, are always made whole
        self._use_of = {name: use for name, use in running if name in self._pieces}
        self._in_its_module: set[str] = set()
        for name, use in self._use_of.items():
            self._intercept(name, use)
        layers = [name for name, module in self._model.named_modules() if _is_layer(module)]
        for name in layers:
            self._make_weights_inside(name)
        inside = tuple(f"{name}." for name in layers)
        self._outside_layers = [name for name in self._pieces if not name.startswith(inside)]

    def __call__(
        self, maps: GrowthMaps, read: ReadTensor, outside: Mapping[str, frozenset[int]]
    ) -> Callable[..., Any]:
        """
        Args:
            read: gives the small model's tensors in the dtype to compute in, on the device.
            outside: by name of the use, the axes whose maps act on activations (`cost.choose_forward`).
        """
        small = sources(self._plan, maps, read)

        def make(job: TensorJob) -> Tensor:
            made = make_tensor(job, self._plan, maps, small, seed=self._seed, dtype=torch.float32)
            return made.to(self._device)

        return self._running_as(_Run(maps, small, outside, make))

    def as_written(self, maps: GrowthMaps, read: ReadTensor, noise: NoiseLevel) -> Callable[..., Any]:
        """The target with the very weights that will be written, made layer by layer too; without gradients.

        Args:
            read: gives the small model's tensors.
        """
        maker = TensorMaker(
            self._plan,
            maps,
            lambda name: read(name).cpu(),
            torch.float32,
            noise,
            self._seed,
            str(self._device),
        )
        inside: Mapping[str, frozenset[int]] = defaultdict(frozenset)  # all maps act inside
        small = sources(self._plan, maps, read)
        return self._running_as(_Run(maps, small, inside, lambda job: maker.make(job).to(self._device)))

    def _running_as(self, now: _Run) -> Callable[..., Any]:
        def run(**inputs: Any) -> Any:
            with self._running(now):
                weights = self._weights(now, self._outside_layers)
                return torch.func.functional_call(self._model, weights, (), inputs, tie_weights=False)

        return run

    # --- weights ------------------------------------------------------------------------------------

    def _weights(self, run: _Run, names: list[str]) -> dict[str, Tensor]:
        """Tensors of the running model, but those of which a map acts outside."""
        made: dict[str, Tensor] = {}

        def make(name: str) -> Tensor:
            if name not in made:
                made[name] = run.make(self._plan.job_of[name])
            return made[name]

        return {
            name: joined([make(piece) for piece in self._pieces[name]], self._shapes.get(name, ()))
            for name in names
            if name not in self._in_its_module or not self._is_made_in_its_module(run, self._use_of[name])
        }

    def _is_made_in_its_module(self, run: _Run, use: Use) -> bool:
        """Where maps act outside, and where the backward pass makes it again; tied to an embedding it is made once."""
        again = self._recompute == "weights" and use.in_axis is not None and not use.is_tied_head
        return bool(run.outside[use.name]) or (again and torch.is_grad_enabled())

    def _make_weights_inside(self, name: str) -> None:
        """Let a layer make its own weights each time that it runs."""
        layer: Any = self._model.get_submodule(name)
        prefix = f"{name}."
        below = [running for running in self._pieces if running.startswith(prefix)]
        stock = _Stock(layer)

        def forward(*args: Any, **kwargs: Any) -> Any:
            run = self._run
            assert run is not None

            def inside(*args: Any, **kwargs: Any) -> Any:
                with self._running(run):
                    weights = {
                        f"module.{running.removeprefix(prefix)}": tensor
                        for running, tensor in self._weights(run, below).items()
                    }
                    return torch.func.functional_call(stock, weights, args, kwargs, tie_weights=False)

            if self._recompute == "layers" and torch.is_grad_enabled():
                return checkpoint(inside, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
            return inside(*args, **kwargs)

        layer.forward = forward

    @contextmanager
    def _running(self, run: _Run) -> Iterator[None]:
        before, self._run = self._run, run
        run.read = None  # the input of a layer that runs again is not what it was
        try:
            yield
        finally:
            self._run, run.read = before, None

    # --- products -----------------------------------------------------------------------------------

    def _intercept(self, name: str, use: Use) -> None:
        """Let the module of a matrix ask how it is to be run."""
        from transformers.pytorch_utils import Conv1D

        module: Any = self._model.get_submodule(name.rpartition(".")[0])
        made_whole = use.in_axis is None and not use.is_of_tokens  # positions
        if made_whole or not isinstance(module, nn.Embedding | nn.Linear | Conv1D):  # a router, a convolution
            return
        self._in_its_module.add(name)
        stock = _Stock(module)

        def forward(x: Tensor) -> Any:
            run = self._run
            if run is None or not self._is_made_in_its_module(run, use):
                return stock(x)
            return (
                self._look_up(run, use, stock, x)
                if use.in_axis is None
                else self._multiply(run, use, module, x)
            )

        module.forward = forward  # type: ignore[method-assign]

    def _look_up(self, run: _Run, use: Use, stock: _Stock, ids: Tensor) -> Tensor:
        """Rows of the small table, [.., d], written into the stream, [.., d']."""
        core = grow_core(use.job, self._plan, run.maps, run.small, run.outside[use.name])
        rows = torch.func.functional_call(stock, {"module.weight": core}, (ids,)) * self._multiplier(use)
        written = self._write(run, use, 1, rows)
        if stock.module.padding_idx is None:
            return written
        padding = (ids == stock.module.padding_idx)[..., None]
        return torch.where(padding, written.detach(), written)  # its row gets no gradient

    def _multiply(self, run: _Run, use: Use, module: Any, x: Tensor) -> Tensor:
        """[.., i'] -> [.., o'] by way of what stays small."""
        outside, in_axis = run.outside[use.name], use.in_axis
        assert in_axis is not None
        bias = getattr(module, "bias", None)
        if in_axis in outside:
            x = self._read(run, use, in_axis, x)
        if outside and self._multiplier(use) != 1.0:
            x = x * self._multiplier(use)
        writes = 1 - in_axis in outside

        def product(x: Tensor) -> Tensor:
            weight = self._core(run, use, outside)
            return F.linear(x, weight if in_axis == 1 else weight.T, None if writes else bias)

        if self._recompute == "weights" and torch.is_grad_enabled():
            y = checkpoint(product, x, use_reentrant=False, preserve_rng_state=False)
        else:
            y = product(x)
        return self._write(run, use, 1 - in_axis, y, bias) if writes else y

    def _core(self, run: _Run, use: Use, outside: frozenset[int]) -> Tensor:
        if outside:
            return grow_core(use.job, self._plan, run.maps, run.small, outside)
        return run.make(use.job)

    def _multiplier(self, use: Use) -> float:
        assert use.job.source is not None
        return use.job.source.multiplier / use.job.spec.multiplier

    def _read(self, run: _Run, use: Use, axis: int, x: Tensor) -> Tensor:
        """[.., n'] -> [.., n]: what readers with the same factor share."""
        layout, pick = use.job.spec.axes[axis].layout, axis_factors(use.job.spec, axis, run.maps)
        factor = pick(layout_key(layout))
        if factor is None:
            return map_axis(x, -1, layout, transposed(pick), self._plan.target.spaces).contiguous()
        if run.read is None or run.read[0] is not x or run.read[1] is not factor:
            run.read = (x, factor, _reduced(x, factor))
        return run.read[2]

    def _write(self, run: _Run, use: Use, axis: int, y: Tensor, bias: Tensor | None = None) -> Tensor:
        """[.., n] -> [.., n']"""
        layout, pick = use.job.spec.axes[axis].layout, axis_factors(use.job.spec, axis, run.maps)
        factor = pick(layout_key(layout))
        if isinstance(factor, Dense):
            return F.linear(y, torch.as_tensor(factor.values).to(y), bias)
        if isinstance(factor, CopiesThenRows) and factor.copies.in_order:
            scale, rows = _scales(factor, y), factor.rows.to(y)
            if bias is None:
                return torch.cat([y * scale, F.linear(y, rows)], -1)
            above, below = bias.split([len(scale), len(rows)])
            return torch.cat([torch.addcmul(above, y, scale), F.linear(y, rows, below)], -1)
        spaces = {**self._plan.target.spaces, **self._plan.small.spaces}
        written = map_axis(y, -1, layout, pick, spaces).contiguous()
        return written if bias is None else written + bias


def _reduced(x: Tensor, factor: Factor) -> Tensor:
    """[.., n'] -> [.., n]"""
    if isinstance(factor, Dense):
        return F.linear(x, torch.as_tensor(factor.values).to(x).T)
    if isinstance(factor, CopiesThenRows) and factor.copies.in_order:
        copied, others = x.split([factor.copies.shape[0], factor.rows.shape[0]], -1)
        return copied * _scales(factor, x) + F.linear(others, factor.rows.to(x).T)
    return factor.apply_transposed(x.flatten(0, -2).T).T.reshape(*x.shape[:-1], -1)


def _scales(factor: CopiesThenRows, like: Tensor) -> Tensor:
    return torch.as_tensor(factor.copies.scale).to(like)


class _Stock(nn.Module):
    """A module as its class runs it, whatever has been put in the place of its `forward`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module: Any = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.module).forward(self.module, *args, **kwargs)


def _is_layer(module: nn.Module) -> bool:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return isinstance(module, GradientCheckpointingLayer)
