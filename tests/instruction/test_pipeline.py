"""Whatever the order of arrival, wherever it is killed: instructions are a function of the completions."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ligo.core.errors import EXIT_PREEMPTED, DataError, Interrupted, ResourceError
from ligo.instruction.config import FilterConfig, InstructConfig, TeacherConfig
from ligo.instruction.lines import JsonLines
from ligo.instruction.pipeline import Generation, only_one
from ligo.instruction.prompt import Request
from ligo.instruction.seeds import read_seeds
from ligo.instruction.teachers.base import Completion, Teacher
from tests.instruction.recording import ShuffledTeacher, default_prompts, made_up

SEEDS = read_seeds(None)
CONFIG = InstructConfig(count=60, filter=FilterConfig(max_rouge_l=0.8))
RESULTS = ("instructions.jsonl", "provenance.jsonl")


def generate(folder: Path, teacher: Teacher, config: InstructConfig = CONFIG) -> dict[str, Any]:
    """One start of the run; the summary it ends with."""
    generation = Generation(folder, config, SEEDS, default_prompts(config.seed))
    try:
        generation.run(teacher)
    finally:
        generation.close()
    return generation.summary


def results(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in RESULTS]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def made(folder: Path, teacher: Teacher | None = None) -> Path:
    folder.mkdir()
    generate(folder, teacher or ShuffledTeacher(1))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("runs") / "whole")


def test_what_lies_in_the_files(uninterrupted: Path) -> None:
    instructions, provenance = (lines(uninterrupted / name) for name in RESULTS)
    assert all(list(record) == ["instruction", "input", "output"] for record in instructions)
    assert len({record["instruction"] for record in instructions}) == len(instructions) >= 60
    assert [line["request"] for line in provenance] == list(range(len(provenance)))
    kept = [(line["request"], place) for line in provenance for place in line["kept"]]
    assert [place["line"] for _, place in kept] == list(range(1, len(instructions) + 1))
    prompts = default_prompts()
    for number, place in kept:
        request = prompts[number]
        assert provenance[number]["seeds"] == request.shown
        text = made_up(request).text
        assert instructions[place["line"] - 1]["instruction"] in text
    reasons = {drop["reason"] for line in provenance for drop in line["dropped"]}
    assert {"similar", "beyond text"} <= reasons
    similar = next(drop for line in provenance for drop in line["dropped"] if drop["reason"] == "similar")
    assert similar["like"].startswith("line ") and similar["rouge_l"] > 0.8


@pytest.mark.parametrize("at_once", [2, 7, 32])
def test_the_order_of_arrival_does_not_matter(uninterrupted: Path, tmp_path: Path, at_once: int) -> None:
    teacher = ShuffledTeacher(at_once, seed=at_once)
    assert results(made(tmp_path / "run", teacher)) == results(uninterrupted)
    arrived = [record["request"] for record in lines(tmp_path / "run" / "completions.jsonl")]
    assert arrived != sorted(arrived)


def test_twenty_kills_at_random_instants_change_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    folder, draw, killed = tmp_path, random.Random(0), 0
    started = time.monotonic()
    generate(made_folder(folder / "timing"), SlowTeacher(4))
    whole = time.monotonic() - started
    run = made_folder(folder / "run")
    for _ in range(20):
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                generate(run, SlowTeacher(4, seed=draw.randrange(100)))
            os._exit(0)
        time.sleep(draw.uniform(0, whole / 6))
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    generate(run, ShuffledTeacher(4))
    assert results(run) == results(uninterrupted)
    assert killed >= 10


class SlowTeacher(ShuffledTeacher):
    """So that kills fall into the run and not behind it."""

    def complete(self, next_request: Any) -> Iterator[Completion]:
        for completion in super().complete(next_request):
            time.sleep(0.005)
            yield completion


def made_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


@pytest.mark.parametrize("torn", [0, 1, 30])
def test_a_kill_between_or_in_any_two_writes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: int
) -> None:
    """Every write of a short run is the last one once, and is itself torn off by `torn` bytes."""
    append, config = JsonLines.append, replace(CONFIG, count=12)
    generate(made_folder(tmp_path / "whole"), ShuffledTeacher(1), config)
    num_writes = 3 * len(lines(tmp_path / "whole" / "provenance.jsonl"))
    for last in range(1, num_writes + 1):
        folder, writes = made_folder(tmp_path / f"{last}"), 0

        def dying(self: JsonLines, records: Any, last: int = last) -> None:
            nonlocal writes
            records, writes = list(records), writes + 1
            append(self, records)
            if writes == last:
                size = self.path.stat().st_size
                os.truncate(self.path, max(0, size - torn) if records else size)
                raise Killed

        monkeypatch.setattr(JsonLines, "append", dying)
        with pytest.raises(Killed):
            generate(folder, ShuffledTeacher(3), config)
        monkeypatch.setattr(JsonLines, "append", append)
        generate(folder, ShuffledTeacher(3, seed=1), config)
        assert results(folder) == results(tmp_path / "whole"), last
    assert num_writes >= 9


def test_what_has_been_paid_for_is_not_asked_for_again(uninterrupted: Path, tmp_path: Path) -> None:
    def failing(request: Request) -> Completion:
        if request.number == 9:
            raise Interrupted("the endpoint is gone", EXIT_PREEMPTED)
        return made_up(request)

    first, second = ShuffledTeacher(4, answer=failing), ShuffledTeacher(4)
    with pytest.raises(Interrupted):
        generate(tmp_path, first)
    there = {record["request"] for record in lines(tmp_path / "completions.jsonl")}
    generate(tmp_path, second)
    assert results(tmp_path) == results(uninterrupted)
    assert there and not there & set(second.asked)
    assert 9 in second.asked


def test_a_finished_run_asks_nothing_and_a_higher_count_goes_on(uninterrupted: Path, tmp_path: Path) -> None:
    few = replace(CONFIG, count=20)
    generate(tmp_path, ShuffledTeacher(1), few)
    again = ShuffledTeacher(1)
    summary = generate(tmp_path, again, few)
    assert again.asked == []
    assert summary["ended_by"] == "count" and summary["instructions"] >= 20
    generate(tmp_path, ShuffledTeacher(5))
    assert results(tmp_path) == results(uninterrupted)


def test_requests_do_not_run_far_ahead_of_one_that_hangs(tmp_path: Path) -> None:
    class Hanging(ShuffledTeacher):
        def complete(self, next_request: Any) -> Iterator[Completion]:
            first = next_request()
            while (request := next_request()) is not None:
                self.asked.append(request.number)
                yield made_up(request)
            yield made_up(first)

    teacher, config = Hanging(1), replace(CONFIG, count=1, teacher=TeacherConfig(concurrency=2))
    generate(tmp_path, teacher, config)
    assert teacher.asked == list(range(1, 8))


# Costs


PRICED = TeacherConfig(prompt_price=0.0001, completion_price=0.1, max_tokens=100, concurrency=4)


def test_costs_are_those_of_all_tokens_over_all_starts(tmp_path: Path) -> None:
    config = replace(CONFIG, teacher=PRICED)
    generate(tmp_path, ShuffledTeacher(1), replace(config, count=10))
    summary = generate(tmp_path, ShuffledTeacher(1), config)
    arrived = lines(tmp_path / "completions.jsonl")
    prompt, completion = (
        sum(record[f"{kind}_tokens"] for record in arrived) for kind in ("prompt", "completion")
    )
    assert summary["tokens"] == {"prompt": prompt, "completion": completion}
    assert summary["cost"] == pytest.approx((prompt * 0.0001 + completion * 0.1) / 1000)
    assert summary["completions"] == len(arrived)
    assert summary["dropped"]["broken"] == sum(
        line["broken"] for line in lines(tmp_path / "provenance.jsonl")
    )


@pytest.mark.parametrize("at_once", [1, 16])
def test_max_cost_is_never_passed_and_more_money_goes_on(
    uninterrupted: Path, tmp_path: Path, at_once: int
) -> None:
    config = replace(CONFIG, teacher=PRICED, max_cost=0.03)
    summary = generate(tmp_path, ShuffledTeacher(at_once), config)
    assert summary["ended_by"] == "max_cost"
    assert 0 < summary["instructions"] < 60
    assert 0.015 < summary["cost"] <= 0.03
    assert summary["completions"] == summary["requests"]  # what was paid for is judged
    generate(tmp_path, ShuffledTeacher(at_once), replace(config, max_cost=None))
    assert results(tmp_path) == results(uninterrupted)


def test_a_teacher_that_writes_nothing_useful_is_given_up(tmp_path: Path) -> None:
    def useless(request: Request) -> Completion:
        return replace(made_up(request), text="I am sorry.") if request.number >= 3 else made_up(request)

    teacher = ShuffledTeacher(1, answer=useless)
    summary = generate(tmp_path, teacher, replace(CONFIG, patience=5))
    assert summary["ended_by"] == "patience"
    assert summary["requests"] == 8 and teacher.asked == list(range(8))
    again = ShuffledTeacher(1)
    assert generate(tmp_path, again, replace(CONFIG, patience=5))["ended_by"] == "patience"
    assert again.asked == []


# Bad folders


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("provenance.jsonl", lambda text: text.replace('"request": 1', '"request": 7', 1), "line 2: what request 1 gave should stand here"),
        ("provenance.jsonl", lambda text: "nonsense\n" + text, "line 1: a record should stand here"),
        ("instructions.jsonl", lambda text: text[: len(text) // 2], "instructions.jsonl has .* lines, but .* were written"),
        ("instructions.jsonl", lambda text: text.replace('"output"', '"answer"', 1), "line 1: input, instruction, output should"),
        ("completions.jsonl", lambda text: text.replace('"text"', '"words"', 1), "line 1: no recorded completion"),
        ("completions.jsonl", lambda text: text.replace('"prompt_tokens": 100', '"prompt_tokens": "many"', 1), "prompt_tokens is not int"),
    ],
)  # fmt: skip
def test_a_file_that_was_changed_from_outside_is_refused(
    uninterrupted: Path, tmp_path: Path, name: str, change: Any, words: str
) -> None:
    for file in uninterrupted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text(change((tmp_path / name).read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError, match=words):
        generate(tmp_path, ShuffledTeacher(1))


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        only_one(tmp_path / "run"),
        pytest.raises(ResourceError, match="another process is at work"),
        only_one(tmp_path / "run"),
    ):
        pytest.fail("both were let in")


def test_a_disk_that_takes_no_more_is_said_and_the_run_goes_on_when_it_does(
    uninterrupted: Path, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # in the middle of a line
    try:
        with pytest.raises(ResourceError, match="cannot write .*completions.jsonl: File too large"):
            generate(tmp_path, ShuffledTeacher(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    generate(tmp_path, ShuffledTeacher(1))
    assert results(tmp_path) == results(uninterrupted)
