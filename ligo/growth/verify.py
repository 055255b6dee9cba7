"""Proof after growth: the written folder is reloaded by stock transformers and compared with the small model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.checkpoint.load import load_model
from ligo.checkpoint.reader import read_config
from ligo.core.errors import CheckpointError, NumericsError
from ligo.families.base import family_of
from ligo.families.stock import model_class

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Largest difference that rounding alone explains, at logits or hidden states of about 3, by the dtype on disk.
TOLERANCE = {"float64": 1e-12, "float32": 5e-5, "float16": 2e-2, "bfloat16": 2e-1}


@dataclass(frozen=True)
class Verification:
    """What the comparison found, over the whole probe, both models in `dtype`: of logits, or of the last hidden states
    where there is no head."""

    max_logit_difference: float
    max_logit: float
    tolerance: float
    claimed_exact: bool
    stored_dtype: str

    @property
    def exact(self) -> bool:
        return self.max_logit_difference <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "exact": self.exact}


def load_stock(folder: Path, dtype: str = "float32", *, with_more: bool = False) -> Any:
    """Load a model with plain `from_pretrained`, in evaluation mode.

    Args:
        with_more: whether the folder may hold more than the model needs, as published ones do.

    Raises:
        CheckpointError: tensors are missing, unexpected or mis-shaped; they are named.
    """
    import torch

    model, info = load_model(
        model_class(family_of(read_config(folder))),
        folder,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
    )
    kinds = ("missing_keys", "mismatched_keys", *(() if with_more else ("unexpected_keys",)))
    problems = {key: sorted(map(str, info[key])) for key in kinds if info[key]}
    if problems:
        raise CheckpointError(
            f"{folder.name} does not load as a stock model: {problems}.\n  Try: write it again"
        )
    return model.eval()


@contextmanager
def staying_double() -> Iterator[None]:
    """Inside, float64 tensors are not cast to float32: stock norms, routers and softmaxes do that in passing."""
    import torch
    from torch.nn import functional as F

    to, to_float, softmax = torch.Tensor.to, torch.Tensor.float, F.softmax

    def keep(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        to_single = torch.float32 in (*args, kwargs.get("dtype"))
        return tensor if to_single and tensor.dtype == torch.float64 else to(tensor, *args, **kwargs)

    def keep_float(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if tensor.dtype == torch.float64 else to_float(tensor, *args, **kwargs)

    def keep_softmax(tensor: Tensor, *args: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
        dtype = None if tensor.dtype == torch.float64 else dtype
        return softmax(tensor, *args, dtype=dtype, **kwargs)  # type: ignore[misc]

    torch.Tensor.to, torch.Tensor.float, F.softmax = keep, keep_float, keep_softmax  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float, F.softmax = to, to_float, softmax  # type: ignore[method-assign]


def outputs(model: Any, probe: Tensor) -> Tensor:
    """Logits, or the last hidden states [..., hidden_size] of a model without a head.

    Args:
        probe: token ids [batch, length], or images [batch, channels, height, width].
    """
    import torch

    name = "pixel_values" if probe.is_floating_point() else "input_ids"
    with torch.no_grad():
        if next(model.parameters()).dtype == torch.float64:
            model.set_experts_implementation("eager")  # one after another: the fused products know no float64
            with staying_double():
                found = model(**{name: probe.double() if probe.is_floating_point() else probe})
        else:
            found = model(**{name: probe})
    return found.logits if "logits" in found else found.last_hidden_state  # type: ignore[no-any-return]


def comparable(found: Tensor, expected: Tensor, read_back: np.ndarray | None) -> Tensor:
    """The part of a grown model's outputs that must equal the small one's.

    Args:
        read_back: the plan's; hidden states go through it.
    """
    if read_back is not None:
        import torch

        found = found @ torch.from_numpy(read_back).to(found)
    return found[..., : expected.shape[-1]]


def verify_growth(
    small_folder: Path, grown_folder: Path, probe: np.ndarray, *, claimed_exact: bool, stored_dtype: str,
    read_back: np.ndarray | None = None,
) -> Verification:  # fmt: skip
    """Reload both models and compare their logits on `probe`, token ids [batch, length] or images.

    Models run in float32, or in float64 when the grown one is stored so. Where the vocabulary grew, the logits
    of the old tokens are compared.

    Args:
        read_back: `GrowthPlan.read_back`; models without a head are compared by their last hidden states.

    Raises:
        CheckpointError: the grown folder is not a complete stock checkpoint.
        NumericsError: its logits are not finite, or it was claimed exact and is not.
    """
    import torch

    dtype, inputs = "float64" if stored_dtype == "float64" else "float32", torch.from_numpy(probe)
    compared = "logits" if read_back is None else "hidden states"
    expected = outputs(load_stock(small_folder, dtype, with_more=True), inputs)
    found = comparable(outputs(load_stock(grown_folder, dtype), inputs), expected, read_back)
    if not found.isfinite().all():
        raise NumericsError(f"the grown model's {compared} are not finite.\n  Try: write.dtype=float32")
    scale = max(float(expected.abs().max()) / 3.0, 1.0)
    result = Verification(
        max_logit_difference=float((found - expected).abs().max()),
        max_logit=float(expected.abs().max()),
        tolerance=TOLERANCE[stored_dtype] * scale,
        claimed_exact=claimed_exact,
        stored_dtype=stored_dtype,
    )
    if claimed_exact and not result.exact:
        raise NumericsError(
            f"the plan says exact, but {compared} differ by {result.max_logit_difference:.2e} "
            f"(allowed {result.tolerance:.1e} for {stored_dtype} at {compared} up to {result.max_logit:.1f}).\n"
            "  Try: write.dtype=float32; if it stays, this is an error of ligo"
        )
    return result
