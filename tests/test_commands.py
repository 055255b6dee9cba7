"""The commands as a person types them: the whole job on a tiny model, resume, ranks, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ligo import grow, plan
from ligo.checkpoint.hashes import SUMS_FILE
from ligo.command import main
from ligo.export import export
from ligo.tracking.jsonl import MEASURED
from tests.conftest import REPO, SHARED_DATA

SMALL = (
    "small=scratch",
    "small.shape={vocab_size: 300, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,"
    " num_key_value_heads: 1, intermediate_size: 24, max_position_embeddings: 64}",
    "small.train.max_tokens=8192",
)
TARGET = (
    "target=custom", "target.hidden_size=24", "target.num_attention_heads=3", "target.num_key_value_heads=3",
    "target.intermediate_size=40", "target.num_hidden_layers=3",
)  # fmt: skip
BUDGET = (
    "train.engine=torch", "train.batch_tokens=256", "train.max_tokens=4096", "train.evaluate_every=4",
    "train.save_every=8", "scratch.max_tokens=6144", "operator.steps=4", "operator.batch_tokens=256",
    "operator.evaluate_every=2", "data.sequence_length=32", "data.validation_tokens=1024", "tracking=jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "fables.txt"
    animals, deeds = (
        ("fox", "crow", "ant", "lion", "mouse"),
        ("saw", "asked", "helped", "followed", "thanked"),
    )
    lines = [
        f"The {animals[i % 5]} {deeds[i * 7 % 5]} the {animals[(i * 3 + 1) % 5]} on day {i % 31}.\n"
        for i in range(1500)
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run(command: Any, *arguments: str, monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    """Run a command in this process, as `python -m` would; its exit code."""
    task = command.grow if command is grow else command.print_plan
    before = sys.argv
    sys.argv = ["ligo", *arguments]
    try:
        main(task, command.DESCRIPTION, command.EXAMPLES)
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module")
def finished(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run: small model, learning, growth, training, baseline, control, report."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    os.environ["LIGO_CACHE"] = str(folder.parent / "cache")
    code = run(
        grow, *SMALL, *TARGET, *BUDGET, f"data.path={text_file}", f"run.dir={folder}",
        "data=custom", "stages=[learn,write,verify,train,scratch,continue,report]",
    )  # fmt: skip
    assert code == 0
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_run_leaves_the_folder_that_is_promised(finished: Path) -> None:
    assert (finished / "STATUS").read_text() == "done\n"
    for name in ("config.yaml", "manifest.json", "plan.json", "operator.safetensors", "grown", "trained",
                 "metrics.jsonl", "summary.json", "report.html", "results.json", "table.md", "small"):  # fmt: skip
        assert (finished / name).exists(), name
    assert not list(finished.glob(".*tmp*"))


def test_grown_and_trained_load_as_stock_models_with_their_tokenizer(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("grown", "trained"):
        model, info = AutoModelForCausalLM.from_pretrained(finished / name, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert (model.config.hidden_size, model.config.num_hidden_layers) == (24, 3)
        tokens = AutoTokenizer.from_pretrained(finished / name)("The fox", return_tensors="pt")
        assert model.generate(**tokens, max_new_tokens=3, do_sample=False).shape[1] > 3
        card = (finished / name / "README.md").read_text()
        assert "base_model: scratch" in card
        assert str(finished) not in card


def test_the_summary_has_the_weights_before_and_after_growth_as_they_are_on_the_disk(finished: Path) -> None:
    from safetensors.torch import load_file

    modules = {row["module"]: row for row in read(finished / "summary.json")["growth"]["modules"]}
    for side in ("small", "grown"):
        weights = load_file(finished / side / "model.safetensors")
        found = torch.cat([w.flatten().double() for name, w in weights.items() if "self_attn.q_proj" in name])
        row = modules["self_attn.q_proj"][side]
        assert row["rms"] == pytest.approx(float(found.square().mean().sqrt()))
        assert row["variance"] == pytest.approx(float(found.var(correction=0)))


def test_learning_never_ends_above_its_start(finished: Path) -> None:
    learned = read(finished / "stages.json")["learn"]
    assert learned["best_loss"] <= learned["start_loss"]


def test_the_summary_follows_from_the_metrics(finished: Path) -> None:
    summary = read(finished / "summary.json")
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    scratch = [r for r in records if r["arm"] == "scratch" and "eval/loss" in r]
    assert summary["target_loss"]["value"] == scratch[-1]["eval/loss"]
    small = [r for r in records if r["arm"] == "small"]
    assert summary["small"]["train_flops"] == small[-1]["flops"] > 0
    sunk, charged = summary["savings"]
    assert sunk["scratch_flops"] == scratch[-1]["flops"]
    if sunk["saving"] is not None:
        cost = summary["small"]["train_flops"] / scratch[-1]["flops"]
        assert charged["saving"] == pytest.approx(sunk["saving"] - cost)
    assert {arm["name"] for arm in summary["arms"]} == {"grown", "scratch", "continue"}
    trained_on = next(arm for arm in summary["arms"] if arm["name"] == "continue")
    grown = next(arm for arm in summary["arms"] if arm["name"] == "grown")
    equal = grown["flops"] + summary["growth"]["operator_flops"]
    assert trained_on["flops"] == pytest.approx(equal, rel=0.05)  # whole steps


def test_starting_again_goes_straight_to_the_report(finished: Path, text_file: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    code = run(
        grow, *SMALL, *TARGET, *BUDGET, f"data.path={text_file}", f"run.dir={finished}",
        "data=custom", "stages=[learn,write,verify,train,scratch,continue,report]",
    )  # fmt: skip
    assert code == 0
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_stages_can_be_chosen_over_time(finished: Path, text_file: Path, tmp_path: Path) -> None:
    arguments = (
        "small=checkpoint", f"small.path={finished / 'small'}", *TARGET, *BUDGET, "operator=exact", "data=custom",
        f"data.path={text_file}", f"run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert run(grow, *arguments, "stages=[train]") == 2  # nothing has been grown yet
    assert run(grow, *arguments, "stages=[write]") == 0
    assert run(grow, *arguments, "stages=[verify,report]") == 0
    assert set(read(tmp_path / "run" / "stages.json")) == {"write", "verify"}


def test_auto_keeps_the_best_candidate_and_charges_all(
    finished: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = tmp_path / "run"
    arguments = (
        "small=checkpoint", f"small.path={finished / 'small'}", *TARGET, *BUDGET, "operator=auto", "data=custom",
        "operator.candidates=[bert2bert,exact]", "operator.trial_steps=2", f"data.path={text_file}",
        f"run.dir={run_folder}",
    )  # fmt: skip
    assert run(grow, *arguments, "stages=[write]") == 2  # nothing has been chosen yet
    assert run(grow, *arguments, "stages=[learn,write,verify,train,scratch,report]") == 0
    learned = read(run_folder / "stages.json")["learn"]
    assert learned["chosen"] == "exact" == min(learned["losses"], key=learned["losses"].get)
    assert read(run_folder / "stages.json")["verify"]["exact"]
    assert read(run_folder / "plan.json")["exactness"][
        "exact"
    ]  # the plan of the chosen one, not of the first
    summary = read(run_folder / "summary.json")
    assert summary["growth"]["operator"] == "auto: exact"
    assert summary["growth"]["operator_flops"] >= learned["flops"]
    assert "chose exact" in capsys.readouterr().out
    refused = (*arguments, "operator.candidates=[exact,pad]", f"run.dir={tmp_path / 'other'}")
    assert run(grow, *refused) == 2  # every candidate is planned before any work
    assert not (tmp_path / "other").exists()
    assert "operator.width=pad keeps the 2 query heads" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["grow", "keep_old"])
def test_the_small_runs_moments_go_on_with_the_grown_model(
    finished: Path, text_file: Path, tmp_path: Path, how: str
) -> None:
    """The first step after growth is another one than with fresh moments, and the run ends well."""
    losses = {}
    for state in (how, "reset"):
        arguments = (
            "small=checkpoint", f"small.path={finished / 'small'}", *TARGET, *BUDGET, "operator=exact", "data=custom",
            f"data.path={text_file}", f"run.dir={tmp_path / state}", f"operator.optimizer_state={state}",
            "stages=[write,train]",
        )  # fmt: skip
        assert run(grow, *arguments) == 0
        records = [json.loads(line) for line in (tmp_path / state / "metrics.jsonl").read_text().splitlines()]
        losses[state] = [r["train/loss"] for r in records if "train/loss" in r]
        assert (tmp_path / state / "new_coordinates.safetensors").exists()
        assert (tmp_path / state / "moments.safetensors").exists() == (state != "reset")
    assert losses[how][0] == losses["reset"][0]  # before the first update
    assert losses[how][1] != losses["reset"][1]


def test_a_state_that_is_not_there_is_refused_before_any_work(
    finished: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    small = tmp_path / "small"
    shutil.copytree(finished / "small", small)
    (small / "optimizer.safetensors").unlink()
    arguments = (
        "small=checkpoint", f"small.path={small}", *TARGET, *BUDGET, "operator=exact", "data=custom",
        f"data.path={text_file}", f"run.dir={tmp_path / 'run'}", "operator.optimizer_state=grow",
    )  # fmt: skip
    assert run(grow, *arguments) != 0
    assert not (tmp_path / "run").exists()
    assert "operator.optimizer_state=reset" in capsys.readouterr().err


def test_a_dense_model_becomes_a_mixture_of_experts(finished: Path, text_file: Path, tmp_path: Path) -> None:
    arguments = (
        "small=checkpoint", f"small.path={finished / 'small'}", "target=custom", "target.num_experts=4", *BUDGET,
        "target.hidden_size=24", "target.num_attention_heads=3", "target.num_key_value_heads=3",
        "target.intermediate_size=40", "operator=exact", "data=custom", f"data.path={text_file}",
        f"run.dir={tmp_path / 'run'}", "stages=[write,verify,train]",
    )  # fmt: skip
    assert run(grow, *arguments) == 0
    assert read(tmp_path / "run" / "stages.json")["verify"]["exact"]
    assert read(tmp_path / "run" / "grown" / "config.json")["model_type"] == "mixtral"
    assert any("drawn fresh" in note for note in read(tmp_path / "run" / "plan.json")["notes"])


@pytest.mark.parametrize("family", ["gpt2", "bert", "gpt_neox"])
def test_the_whole_job_on_other_families(family: str, text_file: Path, tmp_path: Path) -> None:
    """Train a small model, learn an operator, grow, verify, train on: masked or causal, whatever its head is for."""
    small = (
        "small=scratch", f"small.family={family}", "small.train.max_tokens=8192",
        "small.shape={vocab_size: 300, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,"
        " intermediate_size: 24, max_position_embeddings: 64}",
    )  # fmt: skip
    target = (
        "target=custom",
        "target.hidden_size=32",
        "target.num_attention_heads=4",
        "target.num_hidden_layers=3",
    )
    arguments = (
        *small,
        *target,
        *BUDGET,
        "data=custom",
        f"data.path={text_file}",
        f"run.dir={tmp_path / 'run'}",
    )
    assert run(grow, *arguments, "stages=[learn,write,verify,train]") == 0
    results = read(tmp_path / "run" / "stages.json")
    assert results["learn"]["best_loss"] <= results["learn"]["start_loss"]
    assert results["train"]["loss"] < results["learn"]["best_loss"]


def test_another_text_under_the_same_name_is_refused(
    finished: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(text_file.read_text())
    arguments = (
        "small=checkpoint", f"small.path={finished / 'small'}", *TARGET, *BUDGET, "operator=exact", "data=custom",
        f"data.path={text}", f"run.dir={tmp_path / 'run'}", "stages=[write]",
    )  # fmt: skip
    assert run(grow, *arguments) == 0
    text.write_text(text_file.read_text() + "And they lived on.\n" * 50)
    assert run(grow, *arguments) == 2
    assert "the text is no longer the one" in capsys.readouterr().err


def test_a_sweep_over_operators_makes_one_run_each(
    finished: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (
        "-m", "small=checkpoint", f"small.path={finished / 'small'}", *TARGET, *BUDGET, "data=custom",
        f"data.path={text_file}", "stages=[write,verify]",
    )  # fmt: skip
    assert run(grow, *arguments, "+operator=exact,stack") == 0
    verified = {
        p.parent.name: read(p)["verify"]["exact"] for p in tmp_path.glob("runs/default/*/stages.json")
    }
    assert len(verified) == 2
    assert sorted(verified.values()) == [False, True]
    assert run(grow, *arguments, "operator=exact,stak") == 2
    assert "Try: operator=stack" in capsys.readouterr().err


def test_another_config_in_the_same_folder_is_refused(
    finished: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("small=checkpoint", f"small.path={finished / 'small'}")
    code = run(
        grow,
        *small,
        *TARGET,
        *BUDGET,
        "data=custom",
        f"data.path={text_file}",
        f"run.dir={finished}",
        "seed=9",
    )
    assert code == 2
    assert "holds a run with another config" in capsys.readouterr().err


def test_an_exact_run_is_verified_exact_and_the_same_seed_gives_the_same_numbers(
    finished: Path, text_file: Path, tmp_path: Path
) -> None:
    def exact(folder: Path) -> list[dict[str, Any]]:
        code = run(
            grow, "small=checkpoint", f"small.path={finished / 'small'}", *TARGET, *BUDGET, "operator=exact",
            "data=custom", f"data.path={text_file}", "stages=[learn,write,verify,train]", f"run.dir={folder}",
        )  # fmt: skip
        assert code == 0
        verified = read(folder / "stages.json")["verify"]
        assert verified["exact"] and verified["claimed_exact"]
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if k not in MEASURED} for r in records]

    first, second = exact(tmp_path / "one"), exact(tmp_path / "two")
    assert first == second
    small_loss = read(finished / "small" / "ligo.json")["training"]["loss"]
    assert first[0]["eval/loss"] == pytest.approx(small_loss, abs=1e-4)  # growth did not change the function


def test_checkpoints_of_grown_models_are_exported_whole_with_the_tokenizer(
    finished: Path, text_file: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    code = run(
        grow, "small=checkpoint", f"small.path={finished / 'small'}", *TARGET, *BUDGET, "operator=exact",
        "data=custom", f"data.path={text_file}", "stages=[write,train]", f"run.dir={tmp_path / 'run'}",
        "train.export=last",
    )  # fmt: skip
    assert code == 0
    (checkpoint,) = (tmp_path / "run" / "checkpoints" / "grown").glob("step-*")
    export(checkpoint, tmp_path / "later")
    text = "In the beginning"
    expected = AutoTokenizer.from_pretrained(finished / "small")(text).input_ids
    trained = tmp_path / "run" / "trained"
    expected_weights = load_file(trained / "model.safetensors")
    for folder in (checkpoint / "model", tmp_path / "later"):
        assert AutoTokenizer.from_pretrained(folder)(text).input_ids == expected
        assert str(finished) not in (folder / "tokenizer_config.json").read_text()
        assert read(folder / "config.json")["hidden_size"] == read(trained / "config.json")["hidden_size"]
        weights = load_file(folder / "model.safetensors")
        assert weights.keys() == expected_weights.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected_weights.items())


def test_two_processes_with_deepspeed_give_the_losses_of_one(
    finished: Path, text_file: Path, tmp_path: Path
) -> None:
    arguments = [
        "small=checkpoint", f"small.path={finished / 'small'}", *TARGET, *BUDGET, "learn.shard_small=true",
        "train.engine=deepspeed", "data=custom", f"data.path={text_file}",
        "stages=[learn,write,verify,train,scratch,report]",
    ]  # fmt: skip
    assert run(grow, *arguments, f"run.dir={tmp_path / 'one'}") == 0
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "-m", "ligo.grow", *arguments, f"run.dir={tmp_path / 'two'}"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    def losses(folder: Path) -> list[float]:
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [r[key] for r in records for key in ("train/loss", "eval/loss") if key in r]

    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert (tmp_path / "two" / "report.html").is_file()


# --- what cannot be ---------------------------------------------------------------------------------------


def test_the_documented_command_stops_with_words_where_the_weights_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(grow, "+small=llama-7b", "+target=13b", "hardware=none") == 4
    out, err = capsys.readouterr()
    assert "6,738,415,616 -> 13,015,864,320" in out
    assert "looked for: hub id 'huggyllama/llama-7b'" in err
    assert "Try: small.path=DIR" in err
    assert list(tmp_path.iterdir()) == []  # no partial output


def test_a_plan_for_no_machine_needs_neither_weights_nor_torch() -> None:
    code = (
        "import sys; sys.argv = ['x', '+small=llama-7b', '+target=13b', 'hardware=none', 'output=json']\n"
        "from ligo.plan import *\nmain(print_plan, DESCRIPTION, EXAMPLES)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == {"small": 6_738_415_616, "target": 13_015_864_320}


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m ligo.plan +small=llama-7b +target=13b hardware=none | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPO)
    assert done.stdout.startswith("Growth plan: llama-7b -> llama-13b")
    assert done.stderr == ""


def test_import_needs_no_torch() -> None:
    code = "import ligo, sys; assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train.lrr=1"], 2, "Try: train.lr=1"),
        (["+small=llama-70b"], 2, "Try: small=llama-7b"),
        (["small=llama-13b", "target=7b"], 2, "the target is smaller than the small model"),
        (["small=llama-7b", "target=custom", "target.num_attention_heads=33"], 2, "not a multiple of 33 query heads"),
        (["small=checkpoint", "small.path=/nowhere"], 4, "no such folder"),
        (["train.batch_tokens=1000"], 2, "does not divide into windows"),
        (["stages=[train]", "tracking=jsonl"], 2, "the stage 'train' needs what 'write' makes"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_its_code_and_no_traceback(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(grow, *arguments) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", "{bad", "not readable JSON"),
        ("config.json", '{"model_type": "mamba"}', "no family is known for model_type 'mamba'"),
        ("config.json", None, "no config.json"),
        ("model.safetensors", "cut", "model.safetensors"),
        ("model.safetensors", None, "has no model.safetensors"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_ends_with_code_4(
    name: str, content: str | None, words: str, finished: Path, text_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import shutil

    folder = tmp_path / "small"
    shutil.copytree(finished / "small", folder, ignore=shutil.ignore_patterns(SUMS_FILE))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    small = ("small=checkpoint", f"small.path={folder}")
    code = run(
        grow, *small, *TARGET, *BUDGET, "data=custom", f"data.path={text_file}", f"run.dir={tmp_path / 'run'}"
    )
    err = capsys.readouterr().err
    assert code == 4, err
    assert words in err
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_a_file_ends_with_code_5(
    finished: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("here already")
    small = ("small=checkpoint", f"small.path={finished / 'small'}")
    code = run(
        grow,
        *small,
        *TARGET,
        *BUDGET,
        "data=custom",
        f"data.path={text_file}",
        f"run.dir={tmp_path / 'file'}",
    )
    assert code == 5
    assert "Try: another folder, run.dir=DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (None, "does not exist"),
        (b"", "no text"),
        (b"\xff\xfe\xfa not text", "UTF-8"),
    ],
)
def test_text_that_cannot_be_read_ends_with_code_3(
    write: bytes | None, words: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    if write is not None:
        path.write_bytes(write)
    small = ("small=checkpoint", f"small.path={finished / 'small'}")
    code = run(
        grow, *small, *TARGET, *BUDGET, "data=custom", f"data.path={path}", f"run.dir={tmp_path / 'run'}"
    )
    err = capsys.readouterr().err
    assert code == 3, err
    assert words in err
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_does_not_fit_the_model_ends_with_code_3(
    finished: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from transformers import AutoTokenizer

    folder = tmp_path / "small"
    shutil.copytree(finished / "small", folder, ignore=shutil.ignore_patterns(SUMS_FILE))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(50)])
    tokenizer.save_pretrained(folder)
    small = ("small=checkpoint", f"small.path={folder}")
    code = run(
        grow, *small, *TARGET, *BUDGET, "data=custom", f"data.path={text_file}", f"run.dir={tmp_path / 'run'}"
    )
    assert code == 3
    assert "the model's vocabulary is 300" in capsys.readouterr().err


def test_a_full_disk_is_seen_before_work_begins_and_in_the_middle_of_it(
    finished: Path,
    text_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import errno
    import shutil

    small = ("small=checkpoint", f"small.path={finished / 'small'}", "operator=exact", "stages=[write]")
    arguments = (
        *small,
        *TARGET,
        *BUDGET,
        "data=custom",
        f"data.path={text_file}",
        f"run.dir={tmp_path / 'run'}",
    )
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
        assert run(grow, *arguments) == 5
        assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:

        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("ligo.checkpoint.shards.append_tensors", full)
        assert run(grow, *arguments) == 5
    assert "the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "run" / "grown").exists()
    assert (tmp_path / "run" / "STATUS").read_text().startswith("failed: the disk is full")
    assert run(grow, *arguments) == 0  # and goes on once there is room


def test_help_shows_groups_defaults_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (grow, plan):
        assert run(command, "--help") == 0
        text = capsys.readouterr().out
        for words in ("Examples:", "llama-7b", "max_tokens", "Exit codes"):
            assert words in text


# --- real inputs ------------------------------------------------------------------------------------------


def test_a_real_checkpoint_that_nobody_here_made(
    stories260k: Path, tinystories: Path, tmp_path: Path
) -> None:
    code = run(
        grow, "small=checkpoint", f"small.path={stories260k}", "target=custom", "target.hidden_size=96",
        "target.num_attention_heads=12", "target.num_key_value_heads=6", "target.num_hidden_layers=7",
        "data=custom", f"data.path={tinystories / 'train_b.txt.gz'}",
        f"data.validation_path={SHARED_DATA / 'tinystories-sample' / 'valid.txt.gz'}", "data.sequence_length=256",
        "data.validation_tokens=16384", "operator.init=exact", "operator.steps=2", "train.max_tokens=8192", "train.batch_tokens=2048",
        "train.evaluate_every=2", "tracking=jsonl", "train.engine=torch",
        "stages=[learn,write,verify,train]", f"run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 0
    results = read(tmp_path / "run" / "stages.json")
    assert results["learn"]["best_loss"] <= results["learn"]["start_loss"] < 1.5  # it knows stories
    assert results["verify"]["max_logit"] > 3
