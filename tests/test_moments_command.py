"""The small run's moments through the whole command: kept, grown, trained on with, refused before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ligo import grow
from ligo.checkpoint.optimizer import MOMENTS, OPTIMIZER_FILE, read_optimizer_file
from ligo.checkpoint.reader import Checkpoint
from ligo.families.base import family_of
from ligo.growth.coordinates import is_new, read_new_coordinates
from tests.test_commands import BUDGET, SMALL, TARGET, run

OPERATOR = ("operator=exact", "operator.noise=0", "operator.optimizer_state=grow")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text("".join(f"line {i} has {i * 37 % 101} and {i * i % 89}.\n" for i in range(2000)))
    return path


@pytest.fixture(scope="module")
def grown(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "grown"
    os.environ["LIGO_CACHE"] = str(folder.parent / "cache")
    assert run(
        grow, *SMALL, *TARGET, *BUDGET, *OPERATOR, f"data.path={text}", f"run.dir={folder}", "data=custom",
        "stages=[write,verify,train,continue]",
    ) == 0  # fmt: skip
    return folder


def arms(folder: Path) -> dict[str, list[float]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses: dict[str, list[float]] = {}
    for record in records:
        if "train/loss" in record:
            losses.setdefault(record["arm"], []).append(record["train/loss"])
    return losses


def test_a_run_leaves_the_moments_it_begins_with(grown: Path) -> None:
    small = read_optimizer_file(
        grown / "small" / OPTIMIZER_FILE, family_of(Checkpoint.open(grown / "small").config)
    )
    target = family_of(Checkpoint.open(grown / "grown").config)
    state = read_optimizer_file(grown / "moments.safetensors", target)
    assert state.step == small.step == 8192 // 256
    new = read_new_coordinates(grown / "new_coordinates.safetensors")
    assert new.keys() == target.by_name.keys()
    for name in target.by_name:
        assert is_new(new[name]).any()  # every tensor of this target grows
        for moment in MOMENTS:
            assert state.read(name, moment).shape == is_new(new[name]).shape
    # coordinates 8 to 15 are there once, written with the square root of 24 / 16 and read with its inverse
    ratio = (
        state.read("model.embed_tokens.weight", "exp_avg")[:, 8:16]
        / small.read("model.embed_tokens.weight", "exp_avg")[:, 8:16]
    )
    seen = ratio[ratio.isfinite()]
    torch.testing.assert_close(seen, torch.full_like(seen, (16 / 24) ** 0.5))


def test_training_goes_on_with_them(grown: Path, text: Path, tmp_path: Path) -> None:
    without = [
        *SMALL,
        *TARGET,
        *BUDGET,
        *OPERATOR[:2],
        f"data.path={text}",
        "data=custom",
        "stages=[write,train,continue]",
    ]
    assert run(grow, *without, f"run.dir={tmp_path / 'run'}") == 0
    assert not (tmp_path / "run" / "moments.safetensors").exists()
    assert (tmp_path / "run" / "new_coordinates.safetensors").exists()
    with_moments, reset = arms(grown), arms(tmp_path / "run")
    assert with_moments["small"] == reset["small"]
    for arm in ("grown", "continue"):
        assert with_moments[arm][0] == reset[arm][0]  # the weights are the same
        assert with_moments[arm][1] != reset[arm][1]  # their first update is not


def options(small: Path, text: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"small.path={small}", *TARGET, *BUDGET, f"data.path={text}", f"run.dir={folder}", "data=custom",
        "stages=[write]", "operator=exact", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["operator.optimizer_state=grow"], 2, "has no optimizer.safetensors"),
        (["operator.optimizer_state=keep_old"], 2, "operator.optimizer_state=reset"),
        (
            ["operator.optimizer_state=grow", "small.optimizer_state=absent.pt"],
            4,
            "there is no optimiser state",
        ),
        (["small.optimizer_state=absent.pt"], 2, "operator.optimizer_state=reset leaves them out"),
        (["operator.optimizer_state=keep_old", "operator.width=isometry"], 2, "mixes the coordinates"),
    ],
)
def test_moments_that_are_not_there_are_refused_before_any_work(
    more: list[str], code: int, words: str, grown: Path, text: Path, tmp_path: Path, capsys: Any
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for file in (grown / "small").iterdir():
        if file.name != OPTIMIZER_FILE:
            (small / file.name).write_bytes(file.read_bytes())
    assert run(grow, *options(small, text, tmp_path / "run", *more)) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_moments_from_elsewhere(grown: Path, text: Path, tmp_path: Path) -> None:
    small = grown / "small"
    moments = tmp_path / "moments, of a small run.safetensors"
    moments.write_bytes((small / OPTIMIZER_FILE).read_bytes())
    more = ("operator.noise=0", "operator.optimizer_state=grow", f"small.optimizer_state={moments}")
    assert run(grow, *options(small, text, tmp_path / "run", *more)) == 0
    expected, found = (load_file(folder / "moments.safetensors") for folder in (grown, tmp_path / "run"))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
