"""`python -m ligo.instruct` as a person types it: help, a run, resume, replay, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ligo import instruct
from ligo.command import main
from ligo.core.errors import ConfigError
from ligo.options import compose_options, options
from tests.conftest import REPO
from tests.instruction.recording import write_recording

OPTIONS = instruct.OPTIONS


def run(*arguments: str) -> int:
    """The command in this process; its exit code."""
    before, sys.argv = sys.argv, ["ligo", *arguments]
    try:
        main(instruct.instruct, instruct.DESCRIPTION, instruct.EXAMPLES, OPTIONS)
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recorded") / "completions.jsonl", 40)


def replay(recording: Path, folder: Path, *more: str) -> int:
    return run("teacher=replay", f"teacher.path={recording}", f"run.dir={folder}", "count=40", *more)


def test_help_shows_options_defaults_and_examples() -> None:
    command = [sys.executable, "-m", "ligo.instruct", "--help"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    for words in (
        *instruct.EXAMPLES,
        "local, openai, replay",
        "count=52000",
        "filter.max_rouge_l=0.7",
        "75 pre-empted",
    ):
        assert words in done.stdout
    assert "operator" not in done.stdout


@pytest.mark.parametrize("teacher", options("teacher"))
def test_every_shipped_teacher_composes(teacher: str) -> None:
    config, _ = compose_options([f"+teacher={teacher}"], OPTIONS)
    assert config.teacher.name == teacher


def test_a_run_leaves_instructions_provenance_and_costs(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(recording, tmp_path / "run", "teacher.prompt_price=0.5") == 0
    assert (tmp_path / "run" / "STATUS").read_text() == "done\n"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    kept = (tmp_path / "run" / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
    assert summary["instructions"] == len(kept) >= 40
    assert summary["cost"] == summary["completions"] * 100 * 0.5 / 1000
    assert f"{len(kept)} instructions from {summary['requests']} requests" in capsys.readouterr().out
    before = (tmp_path / "run" / "instructions.jsonl").read_bytes()
    assert replay(recording, tmp_path / "run", "teacher.prompt_price=0.5") == 0
    assert (tmp_path / "run" / "instructions.jsonl").read_bytes() == before


def test_a_run_can_be_replayed_with_other_filters(recording: Path, tmp_path: Path) -> None:
    assert replay(recording, tmp_path / "one") == 0
    own = tmp_path / "one" / "completions.jsonl"
    assert replay(own, tmp_path / "same") == 0
    assert replay(own, tmp_path / "other", "filter.max_rouge_l=0.5") == 0  # ends with the recording
    one, same, other = (
        (tmp_path / name / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
        for name in ("one", "same", "other")
    )
    assert one == same
    assert json.loads((tmp_path / "other" / "summary.json").read_text())["ended_by"] == "teacher"
    assert 0 < len(other) < len(one)


def test_another_config_does_not_go_on_in_the_same_folder(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(recording, tmp_path, "count=5") == 0
    assert (
        replay(recording, tmp_path, "count=10", "patience=9", "teacher.concurrency=2", "max_cost=null") == 0
    )
    assert replay(recording, tmp_path, "filter.min_words=5") == 2
    assert "holds a run with another config" in capsys.readouterr().err


def test_a_useless_teacher_ends_the_run_with_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = write_recording(tmp_path / "completions.jsonl", 40)
    assert replay(recording, tmp_path / "run", "filter.min_words=100", "patience=4") == 3
    message = capsys.readouterr().err
    assert "the last 4 completions gave no new task" in message and "too short" in message
    assert (tmp_path / "run" / "STATUS").read_text().startswith("failed: the last 4 completions")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["teacher=opnai"], "teacher=opnai is not known.\n  Known: local, openai, replay.\n  Try: teacher=openai"),
        (["+teacher=locl"], "Try: teacher=local"),
        (["teacher.name=replya"], "teacher 'replya' is not known(.|\n)*Try: teacher=replay"),
        (["teacher.modell=x"], "no option 'teacher.modell'.\n  Try: teacher.model=x"),
        (["small=tiny-llama"], "there is no option 'small'"),
        (["qqq=1"], "python -m ligo.instruct --help"),
        (["teacher.temperature=hot"], "teacher.temperature=VALUE of the right type"),
        (["justaword"], "not of the form key=value.\n  Try: teacher=local"),
        (["prompt.template=numberd"], "Try: prompt.template=numbered"),
        (["prompt.tasks=3"], "prompt.tasks=3 must be at least 4"),
        (["count=0"], "count=0 must be at least 1"),
        (["filter.max_rouge_l=1.5"], "filter.max_rouge_l=1.5 must be at least 0 and at most 1"),
        (["filter.max_words=2"], "filter.max_words=2 must be at least 4"),
        (["max_cost=5"], "no price is known(.|\n)*Try: teacher.prompt_price=PRICE"),
        (["teacher=replay"], "needs the recorded completions"),
        (["teacher=replay", "teacher.path=/no/such.jsonl"], "no recorded completions at /no/such.jsonl"),
        (["prompt.seeds=/no/such.jsonl"], "cannot read /no/such.jsonl"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_before_anything_is_written(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, f"run.dir={tmp_path / 'run'}") in (2, 3)
    message = capsys.readouterr().err
    assert re.search(words, message), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("package", "teacher"), [("rapidfuzz", "replay"), ("openai", "openai")])
def test_a_missing_package_is_said_with_what_installs_it(
    package: str,
    teacher: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run(f"teacher={teacher}", f"run.dir={tmp_path / 'run'}") == 2
    message = capsys.readouterr().err
    assert f"'{package}', which is not installed" in message and "pip install 'ligo[instruct]'" in message
    assert not (tmp_path / "run").exists()


def test_a_recording_of_other_prompts_is_refused(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(recording, tmp_path, "seed=1") == 2
    assert "answers another prompt as request 0" in capsys.readouterr().err


def test_any_file_name_can_be_typed() -> None:
    config, _ = compose_options(
        ["prompt.seeds=~/a (b)/c,d.jsonl", "teacher.base_url=http://localhost:8000/v1"], OPTIONS
    )
    assert config.prompt.seeds == "~/a (b)/c,d.jsonl"
    assert config.teacher.base_url == "http://localhost:8000/v1"


def test_a_broken_seeds_file_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"instruction": "Say hi.", "output": "Hi."}\n{"instruction": "Say bye."}\n')
    assert run(f"prompt.seeds={seeds}", f"run.dir={tmp_path / 'run'}") == 3
    assert "seeds.jsonl, line 2: there is no field 'output'" in capsys.readouterr().err


def test_options_of_other_commands_stay_theirs() -> None:
    from ligo.config import compose

    with pytest.raises(ConfigError, match="there is no option 'teacher'"):
        compose(["teacher=local"])
