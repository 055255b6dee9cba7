"""Checkpoints: what is kept, what is taken, what is refused; and that either engine reads what the other wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ligo.core.errors import CheckpointError
from ligo.export import export
from ligo.families.base import family_of
from ligo.training.config import batch_shape
from ligo.training.engine import Engine
from ligo.training.engines import make_engine
from ligo.training.export import EXPORTED
from ligo.training.models import fresh_model
from ligo.training.objectives import make_objective
from ligo.training.resume import (
    LATEST,
    checkpoints,
    find_problem,
    load_latest,
    remove_finished,
    save_checkpoint,
)
from ligo.training.state import Held, Stretch, read_state, write_state
from tests.conftest import tiny_config
from tests.training.arms import CONFIG, LENGTH, SyntheticWindows, run_arm

FAMILY = family_of(tiny_config())
KINDS = [("torch", 0, "fp32"), *(("deepspeed", s, p) for s in (0, 1, 2, 3) for p in ("fp32", "bf16"))]
ROUNDED = 2e-3  # bf16 arithmetic against float32, in losses of about 4.6


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Engine] = []

    def engine(kind: str = "torch", stage: int = 0, precision: str = "fp32", seed: int = 0) -> Engine:
        config = replace(CONFIG, engine=kind, precision=precision)
        keys = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10}}
        model, shape = fresh_model(FAMILY.config, seed), batch_shape(config, LENGTH, 1)
        made.append(make_engine(model, make_objective(FAMILY), config, shape, keys))
        return made[-1]

    yield engine
    for each in made:
        each.close()


def take(engine: Engine, first: int, last: int) -> list[tuple[float, float | None]]:
    return [engine.step(SyntheticWindows()[step], 1e-3) for step in range(first, last)]


def saved_at(root: Path, step: int, engine: Engine, run_id: str = "run", **options: Any) -> None:
    save_checkpoint(engine, root, {"step": step, "config_hash": "hash", "run_id": run_id}, **options)


def steps_in(root: Path) -> list[int]:
    return [int(folder.name[5:]) for folder in checkpoints(root)]


@pytest.mark.parametrize("writer", [KINDS[0], KINDS[2], KINDS[3], KINDS[8]], ids=str)
def test_either_engine_at_any_stage_goes_on_from_what_another_saved(
    writer: Any, make: Any, tmp_path: Path
) -> None:
    first = make(*writer)
    take(first, 0, 3)
    first.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors"}
    expected = take(first, 3, 6)
    for reader in KINDS:
        other = make(*reader, seed=1)
        other.load(tmp_path)
        found = take(other, 3, 6)
        if reader == writer:
            assert found == expected  # bit for bit
        else:
            bound = 1e-5 if reader[2] == writer[2] == "fp32" else ROUNDED
            assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], abs=bound)


def test_the_newest_ones_stay_and_those_of_every_mth_step(make: Any, tmp_path: Path) -> None:
    engine = make()
    for step in range(2, 16, 2):
        saved_at(tmp_path, step, engine, keep_last=3, keep_every=4)
    assert steps_in(tmp_path) == [4, 8, 10, 12, 14]
    assert (tmp_path / LATEST).read_text() == "step-00000014\n"
    assert {path.name for path in tmp_path.iterdir()} == {LATEST, *(f.name for f in checkpoints(tmp_path))}


def test_of_a_finished_arm_stays_what_is_kept_for_good_or_exported(make: Any, tmp_path: Path) -> None:
    engine = make()
    for step in (2, 4, 6, 8):
        saved_at(tmp_path, step, engine, keep_last=4, export=step == 6)
    remove_finished(tmp_path, keep_every=4)
    assert steps_in(tmp_path) == [4, 6, 8]
    remove_finished(tmp_path, keep_every=0)
    assert steps_in(tmp_path) == [6]
    assert (tmp_path / LATEST).read_text() == "step-00000006\n"
    shutil.rmtree(tmp_path / "step-00000006")
    remove_finished(tmp_path, keep_every=0)
    assert not tmp_path.exists()


def test_what_a_kill_left_is_cleared_away(make: Any, tmp_path: Path) -> None:
    (tmp_path / ".step-00000002.tmp").mkdir(parents=True)
    (tmp_path / ".step-00000001.gone" / "model").mkdir(parents=True)
    saved_at(tmp_path, 4, make())
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, "step-00000004"]


def test_state_of_another_run_or_config_is_not_loaded(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make()
    saved_at(tmp_path, 2, engine)
    saved_at(tmp_path, 4, engine, run_id="stranger")
    loaded = load_latest(engine, tmp_path, "hash", "run")
    assert loaded is not None
    assert loaded["step"] == 2
    assert "skipping checkpoint step-00000004: it belongs to another run" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="none of the checkpoints in(.|\n)*remove that folder to begin"):
        load_latest(engine, tmp_path, "other", "run")
    assert "it belongs to a run with another config" in capsys.readouterr().err
    assert load_latest(engine, tmp_path / "none", "hash", "run") is None


@pytest.mark.parametrize("change", ["space", "value", "cut", "gone", "swapped"])
def test_a_manifest_that_was_changed_is_found(change: str, make: Any, tmp_path: Path) -> None:
    saved_at(tmp_path, 2, make())
    saved_at(tmp_path, 4, make(seed=1))
    older, newest = checkpoints(tmp_path)
    file = newest / "manifest.json"
    text = file.read_text()
    if change == "gone":
        file.unlink()
    elif change == "swapped":
        shutil.copy(older / "manifest.json", file)
    else:
        changed = {
            "space": text.replace(": ", ":  ", 1),
            "value": text.replace("4", "5", 1),
            "cut": text[:-9],
        }
        file.write_text(changed[change])
    problem = find_problem(newest, "hash", "run") or ""
    expected = "is not what was saved" if change == "swapped" else "manifest.json is missing, cut or changed"
    assert expected in problem


def test_an_export_is_the_live_model_as_stock_transformers_load_it(make: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokens = torch.from_numpy(SyntheticWindows()[0][:, :-1])
    for kind in KINDS:
        engine, root = make(*kind), tmp_path / "-".join(map(str, kind))
        take(engine, 0, 2)
        saved_at(root, 2, engine, export=True)
        stock = AutoModelForCausalLM.from_pretrained(root / "step-00000002" / EXPORTED, dtype=torch.float32)
        live = stock_of(engine)
        if kind[2] == "fp32":
            assert torch.equal(stock(tokens).logits, live(tokens).logits)
        for (name, exported), running in zip(stock.named_parameters(), live.parameters(), strict=True):
            # the masters, of which bf16 weights are the rounding
            rounded = (
                exported.to(torch.bfloat16).float()
                if kind[0] == "deepspeed" and kind[2] == "bf16"
                else exported
            )
            assert torch.equal(rounded, running), name


def stock_of(engine: Engine) -> Any:
    model = fresh_model(FAMILY.config, 1)
    model.load_state_dict(engine.weights(), strict=False)
    return model.eval()


def test_a_checkpoint_is_exported_later_with_its_moments(make: Any, tmp_path: Path) -> None:
    from ligo.checkpoint.optimizer import read_optimizer_file

    engine = make("deepspeed", 2)
    take(engine, 0, 3)
    saved_at(tmp_path / "checkpoints", 3, engine)
    checkpoint = tmp_path / "checkpoints" / "step-00000003"
    export(checkpoint, tmp_path / "out")
    steps, moments = engine.moments()
    state = read_optimizer_file(tmp_path / "out" / "optimizer.safetensors", FAMILY)
    assert state.step == steps == 3
    for name, (first, second) in moments.items():
        assert torch.equal(state.read(name, "exp_avg"), first)
        assert torch.equal(state.read(name, "exp_avg_sq"), second)
    with pytest.raises(CheckpointError, match="is there already"):
        export(checkpoint, tmp_path / "out")
    file = checkpoint / "state-00001-of-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be exported: state-00001-of-00001.safetensors is not"):
        export(checkpoint, tmp_path / "another")


@pytest.mark.parametrize(("when", "exported"), [("none", []), ("last", [8]), ("every", [4, 8])])
def test_checkpoints_are_exported_when_asked(when: str, exported: list[int], tmp_path: Path) -> None:
    run_arm(tmp_path, replace(CONFIG, export=when))
    found = [int(folder.parent.name[5:]) for folder in sorted(tmp_path.glob(f"checkpoints/*/{EXPORTED}"))]
    assert found == exported


def held(value: float, own: Tensor | None = None, length: int = 6, start: int = 0) -> Held:
    state: dict[str, Any] = {"exp_avg": torch.full((length,), value), "step": torch.tensor(7.0), "k": 3}
    if own is not None:
        state["scales"] = own
    return Held(torch.full((length,), value), state, (Stretch("w", (2, 3), start, 0, length),))


def empty(length: int, start: int) -> Held:
    return Held(torch.zeros(length), {}, (Stretch("w", (2, 3), start, 0, length),))


def test_numbers_and_tensors_of_an_optimiser_come_back_as_they_were(tmp_path: Path) -> None:
    files = [tmp_path / f"state-{rank}.safetensors" for rank in range(2)]
    for rank, file in enumerate(files):
        write_state(file, [held(rank + 1.0, None, 3, 3 * rank)], rank=rank, world_size=2, extra={"a": 1})
    whole = empty(6, 0)
    assert read_state(files, [whole], rank=0) == {"a": 1}
    assert whole.weights.tolist() == whole.state["exp_avg"].tolist() == [1, 1, 1, 2, 2, 2]
    assert (type(whole.state["k"]), whole.state["k"], whole.state["step"].dtype) == (int, 3, torch.float32)
    with pytest.raises(CheckpointError, match="lacks elements 3 to 6 of weight of w"):
        read_state(files[:1], [empty(6, 0)], rank=0)


def test_numbers_come_back_to_the_device_of_the_weights(tmp_path: Path) -> None:
    write_state(tmp_path / "state.safetensors", [held(1.0)], rank=0, world_size=1, extra={})
    there = Held(torch.zeros(6, device="meta"), {}, (Stretch("w", (2, 3), 0, 0, 6),))
    read_state([tmp_path / "state.safetensors"], [there], rank=0)
    assert there.state["step"].device.type == there.state["exp_avg"].device.type == "meta"
    assert there.state["k"] == 3


def test_what_cannot_be_dealt_out_anew_is_refused_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    write_state(file, [held(1.0, torch.arange(2.0))], rank=0, world_size=1, extra={})
    same = empty(6, 0)
    read_state([file], [same], rank=0)
    assert same.state["scales"].tolist() == [0, 1]
    with pytest.raises(
        CheckpointError, match=r"keeps scales for what a rank holds(.|\n)*1 rank\(s\) saved it"
    ):
        read_state([file], [empty(3, 3)], rank=1)


def test_a_manifest_says_what_the_files_are(tmp_path: Path) -> None:
    run_arm(tmp_path)
    folder = tmp_path / "checkpoints" / "step-00000008"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"].keys() == {"config.json", "state-00001-of-00001.safetensors"}
    assert all((folder / name).stat().st_size == each["bytes"] for name, each in manifest["files"].items())
