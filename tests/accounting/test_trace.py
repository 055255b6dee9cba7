"""The trace of a step on shapes alone is that of the step itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ligo.accounting.flops import model_flops
from ligo.accounting.trace import Trace
from ligo.families.base import Family, family_of
from ligo.families.stock import fresh_model
from ligo.steps import evaluation_step, loss_of, training_step
from tests.families.tiny import RMS_DECODERS
from tests.families.tiny_others import OTHERS

WINDOWS, LENGTH = 2, 16
FAMILIES = ("llama", "gpt2", "bert", "vit", "gemma2")


def family_and_length(name: str) -> tuple[Family, int]:
    family = family_of({**RMS_DECODERS, **OTHERS}[name])
    return family, LENGTH if family.dims.vocab_size else family.tokens_per_image


def batch_of(family: Family) -> Tensor:
    if family.dims.vocab_size:
        return torch.randint(3, family.dims.vocab_size, (WINDOWS, LENGTH + 1))
    pixels = family.setting("num_channels") * family.setting("image_size") ** 2
    return torch.zeros(WINDOWS, pixels + 1, dtype=torch.long)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "vit"])
def test_shapes_alone_give_the_memory_of_a_real_step(name: str) -> None:
    family, length = family_and_length(name)
    model, batch = fresh_model(family).train(), batch_of(family)
    with Trace(model.parameters()) as real:
        loss_of(family)(model, batch).backward()
    real.close()
    traced = training_step(family, windows=WINDOWS, length=length)
    assert traced.peak_bytes == pytest.approx(real.peak(), rel=0.01)
    assert traced.work.flops == real.work.flops


def test_what_is_alive_after_the_forward_pass_is_what_autograd_saved() -> None:
    family, _ = family_and_length("llama")
    model, batch = fresh_model(family).train(), batch_of(family)
    held = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers(), batch)}
    saved: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(family)(model, batch)
    with Trace([*model.parameters(), *model.buffers(), batch]) as trace:
        again = loss_of(family)(model, batch)
    alive = trace.profile()[-1]
    trace.close()
    assert float(loss.detach()) == float(again.detach())
    assert alive == pytest.approx(sum(saved.values()), abs=64)  # the loss itself, and counts of tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_traced_flops_are_those_that_torch_counts(name: str) -> None:
    family, length = family_and_length(name)
    model = fresh_model(family)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        loss_of(family)(model, batch_of(family)).backward()
    trained = training_step(family, windows=WINDOWS, length=length).work.flops
    assert trained == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_mixture_of_experts_is_traced_as_its_formula_says() -> None:
    """Its experts are multiplied in one op, which torch's counter leaves out."""
    family, length = family_and_length("mixtral")
    evaluated = evaluation_step(family, windows=WINDOWS, length=length).work.flops
    assert evaluated == pytest.approx(model_flops(family, length).forward * WINDOWS * length, rel=0.02)


def test_bf16_takes_less_and_more_windows_take_more() -> None:
    family, _ = family_and_length("llama")
    base = training_step(family, windows=2, length=LENGTH)
    assert training_step(family, windows=2, length=LENGTH, dtype="bfloat16").peak_bytes < base.peak_bytes
    assert training_step(family, windows=4, length=LENGTH).activations_bytes > 1.9 * base.activations_bytes
