"""Which stretches of which parameters a rank holds, in plain torch and at every ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ligo.core import distributed
from ligo.training.state import Held, Stretch


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What is stepped and saved; frozen parameters come anew from where the model was loaded."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def whole_parameter(name: str, parameter: Tensor, master: Tensor, states: Mapping[Any, Any]) -> Held:
    """A parameter that every rank holds as a whole, in `master`."""
    stretch = Stretch(name, tuple(parameter.shape), 0, 0, master.numel())
    return Held(master, states[master], (stretch,), replicated=True)


def held_by_deepspeed(
    module: nn.Module, optimizer: Any, stage: int, masters: Mapping[Tensor, Tensor]
) -> Iterator[Held]:
    """What this rank steps, by the tensors that it steps.

    Args:
        optimizer: DeepSpeed's, around torch's.
        masters: stage 0: what is stepped in the place of each parameter.
    """
    names: dict[Any, str] = {parameter: name for name, parameter in trained_parameters(module)}
    if stage == 0:
        for parameter, master in masters.items():
            yield whole_parameter(names[parameter], parameter, master, optimizer.state)
    elif stage == 3:
        yield from _dealt_out(optimizer, names)
    else:
        yield from _cut(optimizer, names)


def _cut(optimizer: Any, names: dict[Any, str]) -> Iterator[Held]:
    """ZeRO-1 and 2 lay the parameters of a group one after another, and cut that into equal parts for the ranks."""
    groups = (optimizer.bit16_groups, optimizer.bit16_groups_flat, optimizer.single_partition_of_fp32_groups)
    for group, flat, mine in zip(*groups, strict=True):
        first = mine.numel() * distributed.rank()
        stretches = []
        for parameter in group:
            begin = parameter.storage_offset() - flat.storage_offset()
            start, stop = max(begin, first), min(begin + parameter.numel(), first + mine.numel())
            name, shape = names[parameter], tuple(parameter.shape)
            if start < stop:
                stretches.append(Stretch(name, shape, start - begin, start - first, stop - start))
        yield Held(mine, optimizer.state[mine], tuple(stretches))


def _dealt_out(optimizer: Any, names: dict[Any, str]) -> Iterator[Held]:
    """ZeRO-3 cuts every parameter, and lays a rank's pieces of a group one after another."""
    groups = (optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat)
    for group, flat in zip(*groups, strict=True):
        stretches, offset = [], 0
        for parameter in group:
            stretches.append(_piece(names[parameter], parameter, offset))
            offset += parameter.partition_numel()
        yield Held(flat, optimizer.state[flat], tuple(stretches))


def _piece(name: str, parameter: Any, offset: int) -> Stretch:
    """This rank's piece of a parameter under ZeRO-3: all are of one size, the last one is padded."""
    size, whole = parameter.partition_numel(), parameter.ds_numel
    start = min(distributed.rank() * size, whole)
    return Stretch(name, tuple(parameter.ds_shape), start, offset, min(size, whole - start))
