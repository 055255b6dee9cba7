"""What running something takes, op by op: live memory, FLOPs, bytes moved.

Run under torch's `FakeTensorMode` tensors have shapes and no contents, so a model of any size is traced in seconds
and without its weights: the real module runs, whatever its architecture, and nothing is guessed from formulas.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ligo.accounting.hardware import Work

_FREE = frozenset(
    [
        "alias",
        "as_strided",
        "detach",
        "diagonal",
        "expand",
        "permute",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unfold",
        "unsqueeze",
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "lift_fresh",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "device",
    ]
)
"""Ops that move no numbers: views, and memory that nothing has been written to."""


class Trace(TorchDispatchMode):
    """Keeps account of the ops that run in it and of the storages that they make."""

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        """
        Args:
            held: tensors that were there before, and are not counted.
        """
        super().__init__()
        self.matmul_flops: dict[torch.dtype, float] = defaultdict(float)
        """FLOPs of matrix products, attention's left out, by the dtype of the result."""
        self.attention_flops = 0.0
        self.moved_bytes = 0.0
        """What ops that are no products read and write."""
        self.num_ops = 0
        self.drawn = 0
        """Random numbers."""
        self._known: dict[int, weakref.finalize] = {}
        self._births: dict[int, int] = {}
        self._deltas: list[int] = []
        self._owners: list[int] = []  # which birth a change belongs to
        self._marks: dict[str, int] = {}
        self._hold(held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1  # a number is asked for, and there is none
        inputs = tree_leaves((args, kwargs))
        self._hold(inputs)
        if func is torch.ops.aten._grouped_mm.default and isinstance(args[0], FakeTensor):
            out: Any = self._grouped_product(args[0], args[1], args[2] if len(args) > 2 else kwargs["offs"])
        else:
            out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name == "_scaled_dot_product_flash_attention_for_cpu" and isinstance(out[0], FakeTensor):
            windows, heads, length, size = out[
                0
            ].shape  # without numbers torch forgets that heads lie side by side
            out = (out[0].new_empty(windows, length, heads, size).transpose(1, 2), *out[1:])
        if name in _FREE:
            self._note_storages(out)
            return out
        self.num_ops += 1
        moved = sum(_num_bytes(leaf) for leaf in (*inputs, *tree_leaves(out)))
        counted = flop_registry.get(func._overloadpacket)
        if name == "normal_":
            self.drawn += 0 if out.is_meta else out.numel()
        elif "scaled_dot_product" in name:
            self.attention_flops += _attention_flops(name, inputs)
        elif counted is not None:
            dtype = next(leaf.dtype for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
            self.matmul_flops[dtype] += counted(*args, **(kwargs or {}), out_val=out)
        else:
            self.moved_bytes += moved
        self._note_storages(out)
        return out

    def _grouped_product(self, left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
        """Products of experts in one op, which torch takes in bf16 only where there are no numbers."""
        rows, columns = left.shape[-2], right.shape[-1]
        groups = (len(ends),) if left.ndim == right.ndim == 2 else ()
        self.matmul_flops[left.dtype] += 2.0 * rows * columns * left.shape[-1]
        return left.new_empty(*groups, rows, columns)

    @property
    def work(self) -> Work:
        """All that was done."""
        products = {str(dtype).removeprefix("torch."): flops for dtype, flops in self.matmul_flops.items()}
        return Work(products, self.attention_flops, self.moved_bytes, self.num_ops, drawn=self.drawn)

    def mark(self, name: str) -> None:
        """Give this moment a name."""
        self._marks[name] = len(self._deltas)

    def births_of(self, tensors: Iterable[Tensor]) -> set[int]:
        """Which of the storages seen hold these tensors."""
        return {
            self._births[key]
            for tensor in tensors
            if (key := tensor.untyped_storage()._cdata) in self._births
        }

    def profile(
        self, of: set[int] | None = None, *, start: str | None = None, end: str | None = None
    ) -> np.ndarray:
        """Bytes alive after each change, from one mark to another.

        Args:
            of: count these storages only (`births_of`).
        """
        deltas = np.array(self._deltas, dtype=np.int64)
        if of is not None:
            deltas = deltas * np.isin(np.array(self._owners), list(of))
        alive = np.concatenate([[0], np.cumsum(deltas)])
        first = self._marks[start] if start else 0
        last = self._marks[end] if end else len(self._deltas)
        return alive[first : last + 1]

    def peak(self, **span: Any) -> int:
        """The most bytes that were alive at once."""
        return int(self.profile(**span).max())

    def _hold(self, leaves: Iterable[Any]) -> None:
        """Do not count what was there before."""
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known:
                    self._known[storage._cdata] = weakref.finalize(
                        storage, self._known.pop, storage._cdata, None
                    )

    def _note_storages(self, out: Any) -> None:
        for leaf in tree_leaves(out):
            if not isinstance(leaf, Tensor) or leaf.is_meta:
                continue
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key in self._known:
                continue
            birth, size = len(self._deltas), storage.nbytes()
            self._deltas.append(size)
            self._owners.append(birth)
            self._births[key] = birth
            self._known[key] = weakref.finalize(storage, self._gone, key, birth, size)

    def _gone(self, key: int, birth: int, size: int) -> None:
        self._known.pop(key, None)
        self._births.pop(key, None)
        self._deltas.append(-size)
        self._owners.append(birth)

    def close(self) -> None:
        """What dies from now on is not counted."""
        for finalizer in self._known.values():
            finalizer.detach()


def _attention_flops(name: str, inputs: list[Any]) -> float:
    """Of fused attention over the full length: two products forward, and twice as many backward."""
    backward = name.endswith("_backward")
    query, key = [leaf for leaf in inputs if isinstance(leaf, Tensor)][backward:][:2]
    return (4 if not backward else 8) * query.numel() * key.shape[-2]


def _num_bytes(leaf: Any) -> int:
    return leaf.numel() * leaf.element_size() if isinstance(leaf, Tensor) else 0
