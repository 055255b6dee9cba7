"""FLOPs of what is computed with a model, by the formula that training is counted by (`ligo.accounting.flops`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ligo.accounting.flops import model_flops
from ligo.evaluation.models import Model


class Meter:
    """Counts forward passes: padding too, and attention over all that is seen, what a cache holds included."""

    def __init__(self, model: Model) -> None:
        self._family = model.family()
        self._per_token = 0
        if self._family is not None:  # attention is counted by what each pass sees
            self._per_token = model_flops(self._family, 1).forward - self._family.attention_flops(1)
        self._flops = 0

    @property
    def flops(self) -> float | None:
        """So far; None where ligo does not know the architecture. Those of an adapter are left out."""
        return None if self._family is None else float(self._flops)

    def count(self, rows: int, length: int, cached: int = 0) -> None:
        """A pass over `rows` sequences of `length` tokens, each after `cached` earlier ones."""
        if self._family is not None:
            self._flops += rows * length * (self._per_token + self._family.attention_flops(cached + length))


@contextmanager
def metered(model: Model, loaded: Any) -> Iterator[Meter]:
    """Count every pass through a loaded causal model in the block."""
    meter = Meter(model)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, cache = kwargs["input_ids"] if "input_ids" in kwargs else args[0], kwargs.get("past_key_values")
        rows, length = ids.shape
        meter.count(rows, length, cached=0 if cache is None else int(cache.get_seq_length()))

    stock = loaded if model.adapter is None else loaded.get_base_model()
    hook = stock.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield meter
    finally:
        hook.remove()
