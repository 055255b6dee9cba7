"""Proof after growth: the written folder is reloaded by stock transformers and compared with the small model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.checkpoint.reader import read_config
from ligo.core.errors import CheckpointError, NumericsError
from ligo.families.base import family_of
from ligo.families.stock import model_class

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Largest logit difference that rounding alone explains, at logits of about 3, by the dtype on disk.
TOLERANCE = {"float64": 1e-12, "float32": 5e-5, "float16": 2e-2, "bfloat16": 2e-1}


@dataclass(frozen=True)
class Verification:
    """What the comparison found. Logit differences are over the whole probe, both models in `dtype`."""

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


def load_stock(folder: Path, dtype: str = "float32") -> Any:
    """Load a model with plain `from_pretrained`, in evaluation mode.

    Raises:
        CheckpointError: tensors are missing, unexpected or mis-shaped; they are named.
    """
    import torch

    model, info = model_class(family_of(read_config(folder))).from_pretrained(
        folder, dtype=getattr(torch, dtype), output_loading_info=True, local_files_only=True
    )
    problems = {
        key: sorted(map(str, info[key]))
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info[key]
    }
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


def logits(model: Any, probe: Tensor) -> Tensor:
    """Output logits on token ids [batch, length] or on images [batch, channels, height, width]."""
    import torch

    name = "pixel_values" if probe.is_floating_point() else "input_ids"
    with torch.no_grad():
        if next(model.parameters()).dtype == torch.float64:
            model.set_experts_implementation("eager")  # one after another: the fused products know no float64
            with staying_double():
                return model(**{name: probe.double() if probe.is_floating_point() else probe}).logits  # type: ignore[no-any-return]
        return model(**{name: probe}).logits  # type: ignore[no-any-return]


def verify_growth(
    small_folder: Path, grown_folder: Path, probe: np.ndarray, *, claimed_exact: bool, stored_dtype: str
) -> Verification:
    """Reload both models and compare their logits on `probe`, token ids [batch, length] or images.

    Models run in float32, or in float64 when the grown one is stored so. Where the vocabulary grew, the logits
    of the old tokens are compared.

    Raises:
        CheckpointError: the grown folder is not a complete stock checkpoint.
        NumericsError: its logits are not finite, or it was claimed exact and is not.
    """
    import torch

    dtype, inputs = "float64" if stored_dtype == "float64" else "float32", torch.from_numpy(probe)
    expected = logits(load_stock(small_folder, dtype), inputs)
    found = logits(load_stock(grown_folder, dtype), inputs)[..., : expected.shape[-1]]
    if not found.isfinite().all():
        raise NumericsError("the grown model's logits are not finite.\n  Try: write.dtype=float32")
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
            f"the plan says exact, but logits differ by {result.max_logit_difference:.2e} "
            f"(allowed {result.tolerance:.1e} for {stored_dtype} at logits up to {result.max_logit:.1f}).\n"
            "  Try: write.dtype=float32; if it stays, this is an error of ligo"
        )
    return result
