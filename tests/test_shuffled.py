"""A small model without its knowledge: the numbers of each matrix stay, their order does not."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from experiments.shuffled import main


def test_matrices_are_shuffled_and_all_else_stays(tmp_path: Path) -> None:
    small, folder = tmp_path / "small", tmp_path / "shuffled"
    small.mkdir()
    kept = {"matrix": torch.arange(64.0).view(8, 8), "gain": torch.arange(8.0)}
    save_file(kept, small / "model.safetensors")
    (small / "config.json").write_text('{"hidden_size": 8}')
    (small / "XXH128SUMS").write_text("of the weights as they were")

    main(small, folder)

    shuffled = load_file(folder / "model.safetensors")
    assert torch.equal(shuffled["gain"], kept["gain"])
    assert shuffled["matrix"].shape == (8, 8) and not torch.equal(shuffled["matrix"], kept["matrix"])
    assert torch.equal(shuffled["matrix"].flatten().sort().values, kept["matrix"].flatten())
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
