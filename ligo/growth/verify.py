"""Proof after growth: the written folder is reloaded by stock transformers and compared with the small model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ligo.core.errors import CheckpointError, NumericsError

if TYPE_CHECKING:
    import numpy as np

# Largest logit difference that rounding alone explains, at logits of about 3, by the dtype on disk.
TOLERANCE = {"float64": 1e-12, "float32": 5e-5, "float16": 2e-2, "bfloat16": 2e-1}


@dataclass(frozen=True)
class Verification:
    """What the comparison found. Logit differences are over all probe tokens, both models in `dtype`."""

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
    """Load a causal LM with plain `from_pretrained`, in evaluation mode.

    Raises:
        CheckpointError: tensors are missing, unexpected or mis-shaped; they are named.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
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


def use_double_norms(model: Any) -> Any:
    """Let a float64 model take its RMS norms in float64; stock ones drop to float32 inside."""
    from torch.nn import functional as F

    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = lambda x, m=module: F.rms_norm(x, m.weight.shape, m.weight, m.variance_epsilon)
    return model


def verify_growth(
    small_folder: Path, grown_folder: Path, probe: np.ndarray, *, claimed_exact: bool, stored_dtype: str
) -> Verification:
    """Reload both models and compare their logits on `probe`, token ids [batch, length].

    Models run in float32, or in float64 when the grown one is stored so.

    Raises:
        CheckpointError: the grown folder is not a complete stock checkpoint.
        NumericsError: its logits are not finite, or it was claimed exact and is not.
    """
    import torch

    dtype = "float64" if stored_dtype == "float64" else "float32"
    tokens = torch.from_numpy(probe)
    small, grown = load_stock(small_folder, dtype), load_stock(grown_folder, dtype)
    if dtype == "float64":
        small, grown = use_double_norms(small), use_double_norms(grown)
    with torch.no_grad():
        expected = small(input_ids=tokens, use_cache=False).logits
        found = grown(input_ids=tokens, use_cache=False).logits
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
