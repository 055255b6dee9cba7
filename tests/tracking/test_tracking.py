"""metrics.jsonl is the truth; W&B mirrors it offline, and its absence is said, not suffered."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from ligo.core.errors import ConfigError, DataError
from ligo.sync import sync
from ligo.tracking.config import TrackingConfig, start_trackers
from ligo.tracking.jsonl import JsonlTracker, read_records
from tests.tracking.wandb_file import recorded


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


def test_a_run_in_three_segments_with_a_rewind_is_synced_as_one(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra ligo[wandb] is not installed")
    (tmp_path / "config.yaml").write_text("tracking: {project: p}\nrun: {study: s}\n")
    (tmp_path / "manifest.json").write_text('{"run_id": "r"}')
    for first, last in ((0, 4), (2, 6), (6, 8)):  # the second went back to step 2
        tracker = start_trackers(
            TrackingConfig(wandb="offline"),
            tmp_path,
            study="s",
            name="n",
            run_config={"seed": 1},
            fingerprint=str,
        )
        tracker.rewind("grown", first)
        for step in range(first + 1, last + 1):
            tracker.log(
                {"arm": "grown", "step": step, "tokens": 10 * step, "train/loss": 5 - step / 8, "mfu": None}
            )
        tracker.finish()
    (made,) = sync(tmp_path, "offline").folders
    expected = [
        {key: value for key, value in record.items() if key != "arm" and value is not None}
        for record in read_records(tmp_path / "metrics.jsonl")
    ]
    assert [row["step"] for row in expected] == list(range(1, 9))
    assert recorded(made).history == expected


def test_a_folder_without_records_is_not_synced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no metrics.jsonl with records"):
        sync(tmp_path, "offline")


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
