"""A small model without its knowledge: every matrix keeps its numbers, in another order.

    python -m experiments.shuffled SMALL FOLDER

Grown beside the real one it tells what a start owes to the size of its weights alone (experiments/shuffled.sh).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main(small: Path, folder: Path) -> None:
    """Write the shuffled model; vectors (norms' gains, biases) and all other files stay as they are."""
    folder.mkdir(parents=True)
    order = torch.Generator().manual_seed(0)
    for file in sorted(small.iterdir()):
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            for name, tensor in tensors.items():
                if tensor.ndim > 1:
                    places = torch.randperm(tensor.numel(), generator=order)
                    tensors[name] = tensor.flatten()[places].view_as(tensor)
            save_file(tensors, folder / file.name, metadata={"format": "pt"})
        elif file.is_file() and not file.name.endswith("SUMS"):
            shutil.copy(file, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
