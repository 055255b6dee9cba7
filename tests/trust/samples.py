"""What the campaigns break: a tiny checkpoint in two shards with a tokenizer, and one of every file that ligo writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ligo.checkpoint.hashes import write_hashes
from ligo.checkpoint.inspect import ADAPTER_CONFIG, ADAPTER_FILE, INDEX_FILE, inspect_adapter
from ligo.checkpoint.load import load_model, open_tensors
from ligo.checkpoint.optimizer import MOMENTS, OPTIMIZER_FILE, read_optimizer_file, write_optimizer_file
from ligo.checkpoint.reader import Checkpoint
from ligo.checkpoint.writer import write_weights
from ligo.core.errors import CheckpointError
from ligo.families.base import Family, family_of
from ligo.families.stock import expected_shapes, model_class
from ligo.growth.coordinates import read_new_coordinates, write_new_coordinates
from ligo.growth.plan import GrowthPlan, plan_growth
from ligo.learning.fit import LearnedOperator
from ligo.learning.functional import LearnedMaps
from ligo.learning.state import OPERATOR_FILE, load_maps, save_operator
from ligo.operators.config import OperatorConfig, build
from ligo.training.export import state_files
from ligo.training.resume import checkpoints, find_problem
from tests.conftest import REPO, tiny_config
from tests.training.arms import CONFIG as ARM
from tests.training.arms import run_arm

CONFIG = tiny_config(hidden_size=16, intermediate_size=24, vocab_size=48, head_dim=4)
ZOO = REPO / "ligo" / "zoo" / "tiny-llama"


def family() -> Family:
    return family_of(CONFIG)


def weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn(shape) for name, shape in expected_shapes(family()).items()}


def published(folder: Path, seed: int = 0) -> Path:
    """A checkpoint as somebody else would publish it: two shards, their index, a tokenizer, no checksums."""
    folder.mkdir(parents=True)
    tensors = weights(seed)
    names = list(tensors)
    files = {"x.safetensors": names[: len(names) // 2], "y.safetensors": names[len(names) // 2 :]}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    write_index(folder, {name: file for file, held in files.items() for name in held})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / name, folder / name)
    (folder / "generation_config.json").write_text('{"eos_token_id": 0}')
    return folder


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def open_all(folder: Path) -> None:
    """Everything that a growth does with a checkpoint that it was given.

    Raises:
        CheckpointError: it is refused.
    """
    checkpoint = Checkpoint.open(folder).named_for(family())
    checkpoint.expect(expected_shapes(family()))
    checkpoint.tokenizer()
    load_model(model_class(family()), folder)


# --- what ligo writes ----------------------------------------------------------------------------------------

Read = Callable[[Path], dict[str, Tensor]]
"""Reads a folder as ligo does, and gives every tensor that comes out; refuses what was changed."""


def read_model(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


def write_grown(folder: Path) -> None:
    """A stock folder as growth, training and export leave it."""
    written = write_weights(folder, weights().items(), shard_bytes=4000)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shutil.copy(ZOO / "tokenizer.json", folder / "tokenizer.json")
    write_hashes(folder, written["checksums"])


def write_moments(folder: Path) -> None:
    tensors = weights()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_optimizer_file(folder / OPTIMIZER_FILE, 7, shapes, ((n, t, t.square()) for n, t in tensors.items()))


def read_moments(folder: Path) -> dict[str, Tensor]:
    state = read_optimizer_file(folder / OPTIMIZER_FILE, family())
    return {f"{moment}.{name}": state.read(name, moment) for name in weights() for moment in MOMENTS}


def _growth() -> tuple[GrowthPlan, OperatorConfig]:
    config = OperatorConfig(init="stack")
    return plan_growth(CONFIG, {"hidden_size": 24, "num_heads": 6, "ffn_size": 40}, build(config)), config


def write_operator(folder: Path) -> None:
    plan, config = _growth()
    torch.manual_seed(0)
    state = {name: torch.randn_like(p) for name, p in LearnedMaps(plan, config).state_dict().items()}
    learned = LearnedOperator(plan.maps, state, 1, 2.0, 1.0, 1.0, 1.0, 0.0, 1, 1.0, 1, "fp32")
    save_operator(folder / OPERATOR_FILE, plan, config, learned)


def read_operator(folder: Path) -> dict[str, Tensor]:
    load_maps(folder / OPERATOR_FILE, *_growth())
    return tensors_of(folder / OPERATOR_FILE)


def write_coordinates(folder: Path) -> None:
    write_new_coordinates(folder / "new_coordinates.safetensors", _growth()[0])


def read_coordinates(folder: Path) -> dict[str, Tensor]:
    found = read_new_coordinates(folder / "new_coordinates.safetensors")
    return {
        f"{name}.{axis}": torch.from_numpy(places)
        for name, axes in found.items()
        for axis, places in enumerate(axes)
    }


def write_adapter(folder: Path) -> None:
    torch.manual_seed(0)
    (folder / ADAPTER_CONFIG).write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}')
    save_file({f"q_proj.lora_{side}.weight": torch.randn(2, 16) for side in "AB"}, folder / ADAPTER_FILE)
    write_hashes(folder)


def read_adapter(folder: Path) -> dict[str, Tensor]:
    inspect_adapter(folder)
    return tensors_of(folder / ADAPTER_FILE)


def write_resumable(folder: Path) -> None:
    """The last checkpoint of a tiny arm, as `folder` itself."""
    arm = folder.with_name(f"{folder.name}-arm")
    run_arm(arm, replace(ARM, max_tokens=4 * 128))
    shutil.rmtree(folder)
    shutil.copytree(checkpoints(arm / "checkpoints")[-1], folder)


def read_resumable(folder: Path) -> dict[str, Tensor]:
    problem = find_problem(folder, "test")
    if problem is not None:
        raise CheckpointError(problem)
    return {name: tensor for file in state_files(folder) for name, tensor in tensors_of(file).items()}


def tensors_of(file: Path) -> dict[str, Tensor]:
    with open_tensors(file) as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a dict


OURS: dict[str, tuple[Callable[[Path], None], Read]] = {
    "grown": (write_grown, read_model),
    "moments": (write_moments, read_moments),
    "operator": (write_operator, read_operator),
    "new coordinates": (write_coordinates, read_coordinates),
    "adapter": (write_adapter, read_adapter),
    "resume state": (write_resumable, read_resumable),
}
"""What ligo writes: how a folder of it is made here, and how it is read."""
