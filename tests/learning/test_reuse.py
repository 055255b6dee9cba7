"""Maps that were learned on one checkpoint serve another of the same shapes; what does not match is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ligo import grow
from ligo.core.errors import CheckpointError
from ligo.core.files import read_json
from ligo.growth.execute import TensorMaker
from ligo.growth.plan import plan_growth
from ligo.learning.config import LearnConfig
from ligo.learning.state import check_fits, find_operator, load_maps, reuse_operator, save_operator
from ligo.operators.config import OperatorConfig, build
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NO_NOISE
from tests.conftest import tiny_config
from tests.learning.test_learning import WANTED, learn, learning, plan_with, small_weights
from tests.test_commands import BUDGET, SMALL, TARGET, run


def matrices(maps: GrowthMaps) -> dict[str, Any]:
    found = {f"{key} {what}": getattr(space_map, what).matrix()
             for key, space_map in maps.spaces.items() for what in ("expand", "reduce")}  # fmt: skip
    return found | {kind: weights.numpy() for kind, weights in maps.layers.learned.items()}


@pytest.fixture(scope="module")
def learned_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config, plan = learning(init="stack"), plan_with(OperatorConfig(init="stack"))
    learned, _ = learn(plan, LearnConfig(small="nf4"), init="stack")
    path = tmp_path_factory.mktemp("run") / "operator.safetensors"
    save_operator(path, plan, config, learned)
    return path


def test_maps_are_the_same_on_another_checkpoint_of_the_same_shapes(
    learned_file: Path, tmp_path: Path
) -> None:
    config = learning(init="stack")
    plan = plan_with(OperatorConfig(init="stack"))
    no_matter = tiny_config(tie_word_embeddings=True, bos_token_id=7, initializer_range=0.01)
    other = plan_growth(no_matter, WANTED, build(config))
    mine = tmp_path / "operator.safetensors"
    record = reuse_operator(find_operator(str(learned_file.parent)), mine, other, config)
    there, here = (matrices(load_maps(file, plan, config)) for file in (learned_file, mine))
    assert there.keys() == here.keys() and len(there) > 6
    assert all((there[key] == here[key]).all() for key in there)
    assert (
        record.best_step > 0 and record.flops > 0 and record.tokens == 12 * 8 * 16 and record.small == "nf4"
    )
    other_small = {name: tensor + 0.1 for name, tensor in small_weights(plan).items()}
    maps = load_maps(mine, other, config)
    job = plan.job_of["model.layers.0.mlp.up_proj.weight"]
    made = [TensorMaker(plan, maps, small.__getitem__, torch.float32, NO_NOISE, 0).make(job)
            for small in (small_weights(plan), other_small)]  # fmt: skip
    assert not torch.equal(*made)  # the same maps, of other weights


@pytest.mark.parametrize(
    ("wanted", "options", "field"),
    [
        ({"ffn_size": 70}, {}, r"target ffn_size \(64 there, 70 here\)"),
        ({}, {"form": "vera"}, r"operator.form \(dense there, vera here\); operator.rank \(None there, 16 here\)"),
        ({}, {"init": "exact"}, r"layer map \(0 1 0 there, 0 1 1\* here\); operator.init \(stack there, exact here\)"),
        ({}, {"per_layer": True}, r"operator.per_layer \(False there, True here\)"),
        ({}, {"depth_lr": 0.0}, r"depth coefficients \(learned there, as they start here\)"),
    ],
)  # fmt: skip
def test_every_field_that_differs_is_named(
    learned_file: Path, wanted: dict[str, int], options: dict[str, Any], field: str
) -> None:
    config = learning(**{"init": "stack", **options})
    sizes = dict(hidden_size=48, num_layers=3, num_heads=6, num_kv_heads=3, ffn_size=64)
    with pytest.raises(CheckpointError, match=f"learned for another growth: (.*; )?{field}"):
        check_fits(learned_file, plan_with(config, **{**sizes, **wanted}), config)


def test_files_that_are_no_operators_are_refused(learned_file: Path, tmp_path: Path) -> None:
    config, plan = learning(init="stack"), plan_with(OperatorConfig(init="stack"))
    with pytest.raises(
        CheckpointError, match="is no file, and no run folder with an operator.safetensors in it"
    ):
        find_operator(str(tmp_path / "nowhere"))
    state = load_file(learned_file)
    save_file(state, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="does not say what its maps were learned for"):
        check_fits(tmp_path / "plain.safetensors", plan, config)


def test_a_run_takes_the_operator_of_another_and_charges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGO_CACHE", str(tmp_path / "cache"))
    text_file = tmp_path / "text.txt"
    text_file.write_text("".join(f"On day {i % 31} the fox saw {i * 7 % 13} crows.\n" for i in range(2000)))
    common = [*SMALL, *TARGET, *BUDGET, f"data.path={text_file}", "data=custom", "operator.init=stack"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(grow, *common, f"run.dir={first}", "stages=[learn,write]", "learn.small=bf16") == 0
    reuse = f"learn.operator={first}"
    code = run(grow, *common, f"run.dir={second}", "seed=1", reuse, "stages=[learn,write,verify,report]")
    assert code == 0
    assert "which cost" in capsys.readouterr().out
    there, here = read_json(first / "stages.json")["learn"], read_json(second / "stages.json")["learn"]
    assert here["flops"] == here["tokens"] == 0 and "start_loss" not in here
    assert here["reused"]["flops"] == there["flops"] > 0 and here["reused"]["tokens"] == there["tokens"]
    assert here["small"] == there["small"] == "bf16"
    if there["best_step"]:
        assert (first / "operator.safetensors").read_bytes() == (second / "operator.safetensors").read_bytes()
    summary = json.loads((second / "summary.json").read_text())
    assert summary["growth"]["reused"] == here["reused"] and summary["growth"]["learned_against"] == "bf16"
    assert summary["growth"]["operator_flops"] == read_json(second / "stages.json")["write"]["build_flops"]
    assert "taken from another run" in (second / "report.html").read_text()
    assert sum(1 for line in (second / "metrics.jsonl").read_text().splitlines() if '"learn"' in line) == 0

    third = tmp_path / "third"
    code = run(grow, "small=checkpoint", f"small.path={second / 'small'}", *TARGET, *BUDGET, f"data.path={text_file}",
               "data=custom", "operator.init=exact", f"run.dir={third}", reuse, "stages=[learn,write]")  # fmt: skip
    assert code == 4
    assert "operator.init (stack there, exact here)" in capsys.readouterr().err
    assert not third.exists()


def test_reuse_without_a_learned_operator_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(grow, "operator=exact", f"learn.operator={tmp_path}") == 2
    assert "operator=exact has none" in capsys.readouterr().err
