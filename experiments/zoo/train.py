"""Train the small models that ligo ships, and put them into the package: python experiments/zoo/train.py [NAME ...]

The same seed on the same kind of machine gives the same weights. What is shipped is float16; its card and
ligo.json say on what it was trained, to which loss, and for how many FLOPs, so that the ledger can charge it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ligo.checkpoint.writer import write_weights
from ligo.core.files import folder_aside, read_json, write_json

REPO = Path(__file__).resolve().parent.parent.parent
MODELS = ("tiny-llama", "tiny-gpt2", "tiny-pythia", "tiny-bert", "tiny-vit")


def train(name: str) -> Path:
    """Train one model of the zoo; its folder, in float32."""
    run = REPO / "runs" / "zoo" / name
    command = [sys.executable, "-m", "ligo.grow", f"experiment=zoo-{name}", f"run.dir={run}"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # the number of threads changes the rounding
    subprocess.run(command, cwd=REPO, check=True, env=one_thread)
    return run / "small"


def ship(trained: Path, name: str) -> None:
    """Copy a trained model into the package, in float16."""
    with folder_aside(REPO / "ligo" / "zoo" / name) as folder:
        weights = load_file(trained / "model.safetensors")
        write_weights(folder, ((key, weights[key].to(torch.float16)) for key in sorted(weights)))
        write_json(folder / "config.json", {**read_json(trained / "config.json"), "dtype": "float16"})
        for file in ("README.md", "ligo.json", "tokenizer.json", "tokenizer_config.json"):
            if (trained / file).is_file():  # images have no tokenizer
                shutil.copy(trained / file, folder / file)


if __name__ == "__main__":
    for model in sys.argv[1:] or MODELS:
        ship(train(model), model)
