"""metrics.jsonl is the truth; W&B mirrors it offline, and its absence is said, not suffered."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ligo.core.errors import ConfigError
from ligo.tracking.config import TrackingConfig, start_trackers
from ligo.tracking.jsonl import JsonlTracker, read_records


def test_rewinding_forgets_only_what_will_be_trained_again(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "metrics.jsonl", tmp_path / "summary.json")
    for arm in ("grown", "scratch"):
        for step in range(4):
            tracker.log({"arm": arm, "step": step})
    tracker.rewind("grown", 1)
    steps = {
        arm: [r["step"] for r in read_records(tmp_path / "metrics.jsonl") if r["arm"] == arm]
        for arm in ("grown", "scratch")
    }
    assert steps == {"grown": [0, 1], "scratch": [0, 1, 2, 3]}


def test_a_line_cut_in_the_middle_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"arm": "grown", "step": 0}\n{"arm": "grown", "st')
    assert read_records(path) == [{"arm": "grown", "step": 0}]


def test_an_offline_wandb_run_holds_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra ligo[wandb] is not installed")
    tracker = start_trackers(
        TrackingConfig(wandb="offline"), tmp_path, study="s", name="n", run_config={"seed": 1}
    )
    tracker.log({"arm": "grown", "step": 1, "tokens": 10, "eval/loss": 3.25})
    tracker.summary({"target_loss": 3.0})
    tracker.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)],
        capture_output=True,
        text=True,
    )
    history = [
        json.loads(line) for line in shown.stdout.splitlines() if '"type":"history"' in line.replace(" ", "")
    ]
    assert "3.25" in json.dumps(history), shown.stderr
    assert "grown/eval/loss" in json.dumps(history)
    assert read_records(tmp_path / "metrics.jsonl")[0]["eval/loss"] == 3.25


def test_a_missing_package_is_refused_before_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from ligo.config import compose
    from ligo.grow import check_extras

    def find(name: str, real: object = importlib.util.find_spec) -> object:
        return None if name in ("wandb", "deepspeed") else real(name)  # type: ignore[operator]

    monkeypatch.setattr(importlib.util, "find_spec", find)
    for name in ("wandb", "deepspeed"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ConfigError, match=r"ligo\[deepspeed\]"):
        check_extras(compose([])[0])
    with pytest.raises(ConfigError, match=r"tracking=jsonl does without(.|\n)*ligo\[wandb\]"):
        check_extras(compose(["train.engine=torch"])[0])
    check_extras(compose(["train.engine=torch", "tracking=jsonl"])[0])
