"""What this machine does per second, measured in about five seconds: its GPU where there is one, else its cores."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from xxhash import xxh3_128

from ligo.accounting.hardware import Rates
from ligo.accounting.trace import Trace
from ligo.checkpoint.stream import append_tensors

_LAYERS = 4
"""Of two products each, forward and backward, that the rate of products is measured on."""
_MOST_PRODUCT_FLOPS = 1e9
"""Of one product while it is measured on a CPU; a GPU takes a hundred times as many."""
_MOST_NUMBERS = 2**23
_PARAMETERS = 2**23
_PIECES = 16
_PIECE_BYTES = 2**22
"""Of a file that is written."""


@dataclass(frozen=True)
class Shape:
    """The sizes that matter, as far as there is time for them."""

    windows: int
    length: int
    width: int
    ffn: int
    heads: int
    vocab: int


def measure(shape: Shape, *, seconds: float = 5.0) -> Rates:
    """The rates of this machine on products, attention and simple ops of these sizes.

    Args:
        seconds: to spend in all; each rate is that of the median run of those that fit into its share.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    share = seconds / 8
    products = {
        dtype: _product_rate(shape, getattr(torch, dtype), device, share) for dtype in ("float32", "bfloat16")
    }
    op_s = _op_seconds(device, share / 2)
    return Rates(
        product_flops={**products, "float16": products["bfloat16"]},
        attention_flops=_attention_rate(shape, device, share),
        moved_bytes=_moved_rate(shape, device, 2 * share, op_s),
        updated=_update_rate(device, share),
        stored_bytes=_store_rate(share / 2),
        drawn=_draw_rate(share / 2),
        op_s=op_s,
    )


def _typical_seconds(run: Callable[[], object], seconds: float) -> float:
    """The median of the runs that fit, one at least, after one that warms up: long work meets slow moments too."""
    ends, taken = time.perf_counter() + seconds, list[float]()
    while len(taken) < 2 or time.perf_counter() < ends:
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[1:])


def _product_rate(shape: Shape, dtype: torch.dtype, device: str, seconds: float) -> float:
    """FLOPs per second of a few layers' products, forward and backward: one product again and again would be faster."""
    most = _MOST_PRODUCT_FLOPS * (100 if device == "cuda" else 1)
    tokens = shape.windows * shape.length
    too_large = max(1.0, (2 * tokens * shape.width * shape.ffn / most) ** (1 / 3))
    tokens, width, ffn = (_shrunk(size, too_large) for size in (tokens, shape.width, shape.ffn))
    x = torch.randn(tokens, width, device=device, dtype=dtype, requires_grad=True)
    sizes = [(ffn, width), (width, ffn)] * _LAYERS
    weights = [torch.randn(size, device=device, dtype=dtype, requires_grad=True) for size in sizes]

    def run() -> None:
        out: Tensor = x
        for weight in weights:
            out = F.linear(out, weight)
        torch.autograd.grad(out, [x, *weights], torch.ones_like(out))

    return 6 * tokens * width * ffn * len(weights) / _typical_seconds(run, seconds)


def _shrunk(size: int, factor: float) -> int:
    """A size to measure with, a multiple of 64 where it differs: CPU products of odd sizes are up to a third slower."""
    smaller = int(size / factor)
    return size if smaller == size else max(1, smaller // 64 * 64 or smaller)


def _attention_rate(shape: Shape, device: str, seconds: float) -> float:
    """FLOPs per second of fused causal attention, forward and backward, over the full length."""
    size = max(1, shape.width // shape.heads)
    windows = max(1, min(shape.windows, _MOST_NUMBERS // (shape.length * shape.width)))
    sizes = (windows, shape.heads, shape.length, size)
    q, k, v = (torch.randn(sizes, device=device, requires_grad=True) for _ in range(3))

    def run() -> None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

    return 12 * q.numel() * shape.length / _typical_seconds(run, seconds)


def _moved_rate(shape: Shape, device: str, seconds: float, op_s: float) -> float:
    """Bytes per second that norms, gates, sums and a softmax over the vocabulary read and write."""
    tokens = shape.windows * shape.length
    rows = max(1, min(tokens, _MOST_NUMBERS // max(shape.width, shape.ffn)))
    x = torch.randn(rows, shape.width, device=device, requires_grad=True)
    gate, up = (torch.randn(rows, shape.ffn, device=device, requires_grad=True) for _ in range(2))
    few = max(1, min(tokens, _MOST_NUMBERS // shape.vocab))
    logits = torch.randn(few, shape.vocab, device=device, requires_grad=True)
    answers = torch.zeros(few, dtype=torch.long, device=device)

    def run() -> None:
        hidden = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        loss = (hidden + x).sum() + (F.silu(gate) * up).sum() + F.cross_entropy(logits, answers)
        torch.autograd.grad(loss, (x, gate, up, logits))

    with Trace() as trace:
        run()
    trace.close()
    moving = _typical_seconds(run, seconds) - trace.num_ops * op_s
    return trace.moved_bytes / max(moving, 1e-9)


def _update_rate(device: str, seconds: float) -> float:
    """Parameters per second that AdamW updates, their gradients clipped first."""
    parameter = nn.Parameter(torch.zeros(_PARAMETERS, device=device))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], lr=1e-5, fused=True)  # as training has it

    def run() -> None:
        nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()

    return _PARAMETERS / _typical_seconds(run, seconds)


def _op_seconds(device: str, seconds: float) -> float:
    """Seconds that an op takes which has nothing to do, and its share in the backward pass."""
    x = torch.zeros(1, device=device, requires_grad=True)

    def run() -> None:
        y: Tensor = x
        for _ in range(200):
            y = y + x
        y.backward()  # type: ignore[no-untyped-call]

    return _typical_seconds(run, seconds) / 400


def _store_rate(seconds: float) -> float:
    """Bytes per second that a checkpoint's file takes until it is on the disk of the folder for temporary files."""
    pieces = torch.ones(_PIECES, _PIECE_BYTES // 4)
    entries = {"pieces": ("F32", tuple(pieces.shape))}
    with tempfile.TemporaryDirectory() as folder:

        def run() -> None:
            append_tensors(Path(folder) / "pieces", entries, iter(pieces), digest=xxh3_128())

        return pieces.nbytes / _typical_seconds(run, seconds)


def _draw_rate(seconds: float) -> float:
    """Random numbers per second, on one core."""
    generator, into = torch.Generator(), torch.empty(2**18)
    return into.numel() / _typical_seconds(lambda: into.normal_(generator=generator), seconds)
