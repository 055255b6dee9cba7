"""Moments are found, read under their names on disk, and refused with the right words, in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ligo.checkpoint.optimizer import (
    MOMENTS,
    OPTIMIZER_FILE,
    OptimizerState,
    open_optimizer_state,
    read_optimizer_file,
    write_optimizer_file,
)
from ligo.core.errors import CheckpointError, ConfigError
from ligo.families.base import Family, family_of
from ligo.families.stock import as_on_disk, expected_shapes, fresh_model
from tests.families.tiny import TINY
from tests.families.tiny_others import OTHERS

FAMILIES = {
    name: family_of({**TINY, **OTHERS}[name]) for name in ("llama", "llama tied", "gpt2", "qwen3_moe")
}
LLAMA = FAMILIES["llama"]
STEPS = 3


@pytest.fixture(autouse=True)
def pickles_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGO_ALLOW_PICKLE", "true")  # as `allow_pickle=true` on the command line does


def trained(family: Family, grouping: str = "all") -> tuple[Any, torch.optim.Optimizer, dict[str, Any]]:
    """A model after three steps of AdamW, and its moments by name on disk."""
    torch.manual_seed(0)
    model = fresh_model(family).float()
    model.set_experts_implementation("eager")
    named = dict(model.named_parameters())
    matrices = [p for p in named.values() if p.ndim >= 2]
    vectors = [p for p in named.values() if p.ndim < 2]
    groups: dict[str, Any] = {
        "all": list(named.values()),
        "matrices, vectors": [{"params": matrices}, {"params": vectors}],
        "named": list(named.items())[::-1],
        "three": [{"params": matrices[:3]}, {"params": matrices[3:]}, {"params": vectors}],
    }
    optimizer = torch.optim.AdamW(groups[grouping], lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(input_ids=torch.randint(3, 96, (2, 16)), labels=torch.randint(3, 96, (2, 16))).loss.backward()
        optimizer.step()
    moments = {
        moment: as_on_disk(model, {name: optimizer.state[p][moment] for name, p in named.items()})
        for moment in MOMENTS
    }
    return model, optimizer, moments


def check(state: OptimizerState, moments: dict[str, dict[str, Tensor]], family: Family) -> None:
    assert state.step == STEPS
    for moment in MOMENTS:
        for name, shape in expected_shapes(family).items():
            found = state.read(name, moment)
            assert tuple(found.shape) == shape
            assert torch.equal(found, moments[moment][name])


def write(path: Path, moments: dict[str, dict[str, Tensor]], family: Family = LLAMA) -> None:
    names = expected_shapes(family)
    write_optimizer_file(path, STEPS, names, ((n, *(moments[m][n] for m in MOMENTS)) for n in names))


# --- formats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_our_own_file_is_found_beside_the_checkpoint(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    _, _, moments = trained(family)
    write(tmp_path / OPTIMIZER_FILE, moments, family)
    check(open_optimizer_state(tmp_path, None, family), moments, family)
    elsewhere = tmp_path / "elsewhere"
    for path in (tmp_path, tmp_path / OPTIMIZER_FILE):
        check(open_optimizer_state(elsewhere, str(path), family), moments, family)
    assert load_file(tmp_path / OPTIMIZER_FILE).keys() == {f"{m}.{n}" for m in MOMENTS for n in moments[m]}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("grouping", ["all", "matrices, vectors", "named"])
@pytest.mark.parametrize("below", [None, "optimizer"])
def test_the_state_of_a_torch_optimiser(name: str, grouping: str, below: str | None, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model, optimizer, moments = trained(family, grouping)
    saved = optimizer.state_dict()
    torch.save({below: saved, "module": model.state_dict()} if below else saved, tmp_path / "optimizer.pt")
    check(open_optimizer_state(tmp_path, str(tmp_path / "optimizer.pt"), family), moments, family)


def test_a_parameter_that_never_had_a_gradient_has_zero_moments(tmp_path: Path) -> None:
    saved = trained(LLAMA)[1].state_dict()
    del saved["state"][2]
    torch.save(saved, tmp_path / "optimizer.pt")
    state = open_optimizer_state(tmp_path, str(tmp_path / "optimizer.pt"), LLAMA)
    running = list(dict(fresh_model(LLAMA).named_parameters()))
    assert not state.read(running[2], "exp_avg").any()
    assert state.read(running[3], "exp_avg").any()


@pytest.mark.parametrize("flat", [False, True], ids=["ZeRO-1", "ZeRO-3"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_deepspeed_universal_checkpoint(name: str, flat: bool, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model, optimizer, moments = trained(family)
    for running, parameter in model.named_parameters():
        folder = tmp_path / "zero" / running
        folder.mkdir(parents=True)
        for moment in MOMENTS:
            tensor = optimizer.state[parameter][moment]
            torch.save(tensor.flatten() if flat else {"param": tensor, "cat_dim": 0}, folder / f"{moment}.pt")
        if not flat:
            torch.save(torch.tensor(float(STEPS)), folder / "step.pt")
    torch.save({"global_steps": STEPS + 2, "skipped_steps": 2}, tmp_path / "mp_rank_00_model_states.pt")
    check(open_optimizer_state(tmp_path / "none", str(tmp_path), family), moments, family)


# --- refusals ----------------------------------------------------------------------------------------------


def refused(path: Path, words: str, family: Family = LLAMA) -> None:
    with pytest.raises(CheckpointError, match=rf"(?s){words}.*Try: "):
        open_optimizer_state(path.parent, str(path), family)


def test_a_checkpoint_without_state_is_refused_and_what_is_beside_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)has no optimizer.safetensors.*operator.optimizer_state=reset"
    ):
        open_optimizer_state(tmp_path, None, LLAMA)
    (tmp_path / "optimizer.pt").touch()
    with pytest.raises(ConfigError, match=r"small.optimizer_state=.*optimizer.pt allow_pickle=true, or"):
        open_optimizer_state(tmp_path, None, LLAMA)
    refused(tmp_path / "absent", "there is no optimiser state")


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_the_first_tensor_that_does_not_fit_is_named(kind: str, tmp_path: Path) -> None:
    wider = family_of({**TINY["llama"], "intermediate_size": 56})
    _, optimizer, moments = trained(LLAMA)
    words = (
        r"not that of the small model: .*model.layers.0.mlp.gate_proj.weight is \(48, 32\), not \(56, 32\)"
    )
    if kind == "ours":
        write(tmp_path / OPTIMIZER_FILE, moments)
        refused(tmp_path / OPTIMIZER_FILE, words, wider)
    else:
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        refused(tmp_path / "optimizer.pt", words, wider)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write(tmp_path / OPTIMIZER_FILE, trained(LLAMA)[2])
    tensors = load_file(tmp_path / OPTIMIZER_FILE)
    del tensors["exp_avg_sq.model.norm.weight"]
    save_file(tensors, tmp_path / "less.safetensors", {"step": "3"})
    refused(tmp_path / "less.safetensors", "exp_avg_sq.model.norm.weight is missing")
    save_file(tensors, tmp_path / "stepless.safetensors")
    refused(tmp_path / "stepless.safetensors", "after how many steps")
    whole = (tmp_path / OPTIMIZER_FILE).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.safetensors", "damaged or was not written to its end")
    (tmp_path / "universal" / "zero" / "model.embed_tokens.weight").mkdir(parents=True)
    refused(tmp_path / "universal", "model.embed_tokens.weight is missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda saved: saved["param_groups"][0]["params"].pop(), "20 parameters, and the small model has 21"),
        (lambda saved: saved["state"].clear(), "saved before the first step"),
        (lambda saved: saved["state"][4].pop("exp_avg_sq"), "state of another optimiser"),
        (lambda saved: saved.pop("param_groups"), "holds no state of a torch optimiser"),
    ],
)
def test_other_states_of_torch_are_refused(change: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    saved = trained(LLAMA)[1].state_dict()
    change(saved)
    torch.save(saved, tmp_path / "optimizer.pt")
    refused(tmp_path / "optimizer.pt", words)


def test_groups_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    torch.save(trained(LLAMA, "three")[1].state_dict(), tmp_path / "optimizer.pt")
    refused(tmp_path / "optimizer.pt", "3 groups of parameters, and does not say which parameter is in which")


def test_a_file_that_could_run_code_is_not_read(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was run",)

    torch.save({"state": Harmful(), "param_groups": []}, tmp_path / "optimizer.pt")
    refused(tmp_path / "optimizer.pt", "anything else could run code")
    assert not (tmp_path / "was run").exists()


def test_a_deepspeed_checkpoint_in_pieces_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "global_step7").mkdir()
    (tmp_path / "global_step7" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    pieces = f"{tmp_path}/global_step7"
    with pytest.raises(CheckpointError) as error:
        open_optimizer_state(tmp_path, str(tmp_path), LLAMA)
    assert f"--input_folder {pieces} --output_folder {pieces}-universal" in str(error.value)
    assert f"small.optimizer_state={pieces}-universal" in str(error.value)


def test_moments_are_written_in_order_and_whole_or_not_at_all(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (4,)}
    wrong = [("b", torch.ones(4), torch.ones(4)), ("a", torch.ones(2, 3), torch.ones(2, 3))]
    with pytest.raises(ValueError, match="moments of b come where those of a should"):
        write_optimizer_file(tmp_path / "file", 1, shapes, wrong)
    with pytest.raises(ValueError, match="exp_avg.a is"):
        write_optimizer_file(tmp_path / "file", 1, shapes, [("a", torch.ones(3), torch.ones(3))])
    assert list(tmp_path.iterdir()) == []
    write_optimizer_file(tmp_path / "file", 1, shapes, wrong[::-1])
    assert {name: tuple(t.shape) for name, t in load_file(tmp_path / "file").items()} == {
        f"{moment}.{name}": shape for name, shape in shapes.items() for moment in MOMENTS
    }
    with pytest.raises(CheckpointError, match="exp_avg.model.embed_tokens.weight is missing"):
        read_optimizer_file(tmp_path / "file", LLAMA)
