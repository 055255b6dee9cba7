"""The W&B runs of a run, read back from the real `.wandb` files: groups, job types, curves, artifacts and who took which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ligo import grow
from ligo.core.errors import ConfigError
from ligo.sync import sync
from ligo.tracking.config import TrackingConfig, check, start_trackers
from ligo.tracking.jsonl import read_records
from ligo.tracking.wandb import job_of
from tests.conftest import REPO
from tests.test_commands import BUDGET, SMALL, TARGET, run, text_file
from tests.tracking.wandb_file import Recorded, recorded, recorded_runs
from tests.tracking.wandb_server import running

__all__ = ["text_file"]  # a fixture

pytest.importorskip("wandb", reason="the extra ligo[wandb] is not installed")
_NO_SERVER = "http://127.0.0.1:9"


def files_of(folder: Path) -> str:
    """Stands for the fingerprint of a model, where there is no model."""
    return f"{folder.name:0<64}".encode().hex()[:64]


def tracker(folder: Path, config: dict[str, Any] | None = None, **options: Any) -> Any:
    return start_trackers(
        TrackingConfig(wandb="offline", **options), folder, study="s", name="n", run_config=config or {"seed": 1},
        fingerprint=files_of,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tracked(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with W&B offline: the small model trained, an operator learned, grown, trained, and from scratch."""
    folder = tmp_path_factory.mktemp("runs") / "tracked"
    os.environ["LIGO_CACHE"] = str(folder.parent / "cache")
    budget = [word for word in BUDGET if word != "tracking=jsonl"]
    code = run(
        grow, *SMALL, *TARGET, *budget, f"data.path={text_file}", f"run.dir={folder}", "data=custom", "tracking=wandb",
        "run.study=words", "train.max_tokens=1024", "scratch.max_tokens=1024", "small.train.max_tokens=1024",
        "stages=[learn,write,verify,train,scratch,report]",
    )  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def runs(tracked: Path) -> dict[str, Recorded]:
    return recorded_runs(tracked)


def test_each_job_is_a_run_in_the_group_of_the_study(runs: dict[str, Recorded]) -> None:
    assert list(runs) == ["small", "learn", "grow", "train", "scratch"], (
        "in the order in which they hand things on"
    )
    assert {run.group for run in runs.values()} == {"words"}
    assert [runs[job].name for job in ("grow", "train")] == ["tracked", "tracked train"]
    assert len({run.id for run in runs.values()}) == len(runs)
    assert runs["scratch"].config["run"]["study"] == "words"


def test_curves_are_those_of_metrics_jsonl(tracked: Path, runs: dict[str, Recorded]) -> None:
    records = read_records(tracked / "metrics.jsonl")
    for arm in ("small", "learn", "grown", "scratch"):
        rows = [
            {key: value for key, value in record.items() if key != "arm" and value is not None}
            for record in records
            if record["arm"] == arm
        ]
        assert rows and runs[job_of(arm)].history == rows
    assert runs["grow"].history == []


def test_what_is_handed_on_forms_one_chain(runs: dict[str, Recorded]) -> None:
    made = {job: run.logged for job, run in runs.items()}
    assert [list(made[job]) for job in runs] == [["small"], ["operator"], ["grown"], ["trained"], []]
    small, operator, grown = made["small"]["small"], made["learn"]["operator"], made["grow"]["grown"]
    assert runs["learn"].used == {"small": small}
    assert runs["grow"].used == {"small": small, "operator": operator}
    assert runs["train"].used == {"grown": grown}
    assert runs["scratch"].used == runs["small"].used == {}
    digests = {a.name: set() for run in runs.values() for a in run.artifacts}
    for run_ in runs.values():
        for artifact in run_.artifacts:
            digests[artifact.name].add(artifact.digest)
    assert all(len(found) == 1 for found in digests.values()), "taken is what was made, to the digest"
    assert len({found.pop() for found in digests.values()}) == len(digests)


def test_a_reference_copies_nothing_and_says_in_which_run_the_weights_lie(
    tracked: Path, runs: dict[str, Recorded]
) -> None:
    (grown,) = (a for a in runs["grow"].artifacts if not a.used)
    assert (grown.type, list(grown.entries)) == ("model", ["model"])
    assert grown.entries["model"].startswith("ligo:model/")
    assert grown.metadata["path"] == f"{tracked.name}/grown"  # and no place of this machine
    assert (
        grown.metadata["bytes"]["model.safetensors"]
        == (tracked / "grown" / "model.safetensors").stat().st_size
    )
    copies = [path for path in tracked.glob("wandb/**/*.safetensors")]
    assert copies == []


def test_the_summary_is_that_of_the_run(tracked: Path, runs: dict[str, Recorded]) -> None:
    summary = json.loads((tracked / "summary.json").read_text())
    assert runs["grow"].summary["target_loss"] == summary["target_loss"]
    assert runs["grow"].summary["savings"] == summary["savings"]


def test_replayed_it_is_the_same_runs_with_the_same_artifacts(
    tracked: Path, runs: dict[str, Recorded]
) -> None:
    replayed = [recorded(folder) for folder in sync(tracked, "offline").folders]
    assert [run.job_type for run in replayed] == list(runs)
    for again in replayed:
        before = runs[again.job_type]
        assert (again.used, again.logged, again.history) == (before.used, before.logged, before.history)
        assert {a.name: a.digest for a in again.artifacts} == {a.name: a.digest for a in before.artifacts}
    assert replayed[2].summary["savings"] == runs["grow"].summary["savings"]


def test_a_run_that_begins_with_a_trained_model_takes_what_the_other_made(
    tracked: Path, runs: dict[str, Recorded], text_file: Path, tmp_path: Path
) -> None:
    budget = [word for word in BUDGET if word != "tracking=jsonl"]
    code = run(
        grow, *budget, "small=checkpoint", f"small.path={tracked / 'trained'}", "target=custom", "target.num_hidden_layers=4",
        "operator=exact", f"data.path={text_file}", f"run.dir={tmp_path / 'next'}", "data=custom", "tracking=wandb",
        "stages=[write]",
    )  # fmt: skip
    assert code == 0
    (later,) = recorded_runs(tmp_path / "next").values()
    assert later.used == {"small": runs["train"].logged["trained"]}
    (taken,) = (a for a in later.artifacts if a.used)
    (made,) = (a for a in runs["train"].artifacts if not a.used)
    assert taken.digest == made.digest


def test_files_are_sent_from_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    started = tracker(tmp_path, artifacts="files")
    started.log({"arm": "grown", "step": 1, "tokens": 10})
    (tmp_path / "grown").mkdir()
    (tmp_path / "grown" / "config.json").write_text("{}")
    started.finish()
    (grow_run,) = recorded_runs(tmp_path)["grow"].artifacts
    assert grow_run.entries == {"config.json": str(tmp_path / "grown" / "config.json")}
    assert recorded_runs(tmp_path)["train"].logged == {}, "trained/ was there before"


def test_artifacts_can_be_left_out(tmp_path: Path) -> None:
    started = tracker(tmp_path, artifacts="off")
    started.log({"arm": "grown", "step": 1, "tokens": 10})
    (tmp_path / "trained").mkdir()
    started.finish()
    assert recorded_runs(tmp_path)["train"].artifacts == []
    with pytest.raises(ConfigError, match="tracking.artifacts=copies is not one of reference, files, off"):
        check(TrackingConfig(artifacts="copies"))


def test_a_mirror_that_breaks_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(folder: Path) -> str:
        raise OSError("the disk is gone")

    started = start_trackers(
        TrackingConfig(wandb="offline"), tmp_path, study="s", name="n", run_config={}, fingerprint=broken
    )
    started.log({"arm": "grown", "step": 1, "tokens": 10})
    (tmp_path / "trained").mkdir()
    started.finish()
    assert "W&B has no artifacts of train: the disk is gone" in capsys.readouterr().err
    assert recorded_runs(tmp_path)["train"].history == [{"step": 1, "tokens": 10}]


def test_a_tuned_model_is_one_job(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"inputs": {"small": "a" * 64}}))
    started = tracker(tmp_path, {"tuning": {"method": "lora"}})
    started.log({"arm": "tune", "step": 1, "tokens": 10, "eval/loss": 2.5})
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    started.summary({"loss": 2.5})
    started.finish()
    assert list(recorded_runs(tmp_path)) == ["tune"]
    tuned = recorded_runs(tmp_path)["tune"]
    assert tuned.used == {"small": f"model-{'a' * 12}"}
    assert list(tuned.logged) == ["adapter"]
    assert tuned.summary["loss"] == 2.5


def test_an_arm_goes_on_in_its_own_run_after_a_growth_inside_it(tmp_path: Path) -> None:
    started = tracker(tmp_path)
    for arm, step in (("grown", 1), ("learn-1", 0), ("grown", 2)):
        started.log({"arm": arm, "step": step, "tokens": step})
    started.finish()
    found = recorded_runs(tmp_path)
    assert sorted(found) == ["learn", "train"]
    assert [row["step"] for row in found["train"].history] == [1, 2]


@pytest.mark.parametrize("key", [None, "0" * 40])
def test_without_a_login_or_a_network_it_stays_offline(key: str | None, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_BASE_URL": _NO_SERVER, "NETRC": str(tmp_path / "netrc"), "WANDB_HTTP_TIMEOUT": "1"}
    environment |= {"PYTHONPATH": str(REPO), **({} if key is None else {"WANDB_API_KEY": key})}
    config = {"tracking": {"project": "p"}, "run": {"study": "s"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "manifest.json").write_text('{"run_id": "r"}')
    (tmp_path / "metrics.jsonl").write_text('{"arm": "grown", "step": 1, "tokens": 10}\n')
    command = [sys.executable, "-m", "ligo.sync", str(tmp_path), "--mode", "online"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    why = "nobody is logged in" if key is None else "Failed to authenticate with"
    assert f"W&B stays offline: {why}" in done.stderr
    assert f"python -m ligo.sync {tmp_path} --mode online" in done.stderr
    assert "to send it, in this order: wandb sync" in done.stdout
    assert done.returncode == 0
    assert recorded_runs(tmp_path)["train"].history == [{"step": 1, "tokens": 10}]


def test_what_was_tracked_offline_is_sent_as_a_chain(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"inputs": {"small": "a" * 64}}))
    started = tracker(tmp_path)
    started.log({"arm": "learn", "step": 1, "tokens": 10})
    (tmp_path / "operator.safetensors").write_bytes(b"maps")
    (tmp_path / "grown").mkdir()
    started.log({"arm": "grown", "step": 1, "tokens": 10})
    started.finish()
    folders = [run.folder for run in recorded_runs(tmp_path).values()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    with running() as server:
        environment |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
        for folder in folders:
            command = [sys.executable, "-m", "wandb", "sync", str(folder)]
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    jobs = {
        v["name"]: v["jobType"] for name, v in server.asked if name == "UpsertBucket" and v.get("jobType")
    }
    assert list(jobs.values()) == ["learn", "grow", "train"]
    sent = server.inputs("CreateArtifact")
    names = {artifact["digest"]: artifact["artifactCollectionName"] for artifact in sent}
    small, grown = f"model-{'a' * 12}", f"model-{files_of(tmp_path / 'grown')[:12]}"
    (operator,) = (name for name in names.values() if name.startswith("operator"))
    made = {(jobs[a["runName"]], a["artifactCollectionName"]) for a in sent if a["runName"] is not None}
    assert made == {("learn", operator), ("grow", grown)}
    used = {(jobs[use["runName"]], names[use["artifactID"]]) for use in server.inputs("UseArtifact")}
    assert used == {("learn", small), ("grow", small), ("grow", operator), ("train", grown)}
