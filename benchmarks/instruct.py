"""python -m benchmarks.instruct: filtering against the rouge-score package, its speed, and kills.

Candidates come from published instructions where these lie beside the checkout: changed, recombined, repeated.
"""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import REPO, Figures, finish, row, run_measures
from ligo.instruction.config import FilterConfig, PromptConfig
from ligo.instruction.filter import TaskFilter
from ligo.instruction.parse import Task
from ligo.instruction.prompt import Prompts
from ligo.instruction.rouge import RougeIndex
from ligo.instruction.seeds import read_seeds
from ligo.instruction.teachers.base import Completion

PUBLISHED = REPO.parent / "shared" / "data" / "alpaca-5k" / "train.jsonl.gz"
NUM_PAIRS, NUM_CANDIDATES, NUM_KILLS = 2_000, 52_000, 20


# --- candidates -------------------------------------------------------------------------------------


def published_tasks() -> list[Task]:
    """Tasks that were published; the seed tasks where these are not at hand."""
    if not PUBLISHED.is_file():
        return read_seeds(None)
    with gzip.open(PUBLISHED, "rt", encoding="utf-8") as lines:
        return [Task(**json.loads(line)) for line in lines]


def changed(text: str, words: list[str], draw: random.Random, share: float = 1 / 3) -> str:
    """Up to a share of the words replaced by others, left out or doubled."""
    kept = text.split()
    for _ in range(draw.randint(1, max(1, int(share * len(kept))))):
        at, kind = draw.randrange(len(kept)), draw.randrange(4)
        if kind == 0 and len(kept) > 4:
            del kept[at]
        elif kind == 1:
            kept.insert(at, kept[at])
        else:
            kept[at] = draw.choice(words)
    return " ".join(kept)


def candidates(count: int, draw: random.Random) -> list[Task]:
    """As a teacher's: two fifths near others, two fifths made of two halves, the rest said before or new."""
    tasks = published_tasks()
    words = [word for task in tasks for word in task.instruction.split()]
    made = []
    for _ in range(count):
        task, other, kind = draw.choice(tasks), draw.choice(tasks), draw.random()
        one, two = task.instruction.split(), other.instruction.split()
        if kind < 0.4:
            text = changed(task.instruction, words, draw)
        elif kind < 0.8:
            text = " ".join(one[: len(one) // 2 + 1] + two[len(two) // 2 :])
        else:
            text = task.instruction
        made.append(Task(text, task.input, task.output))
    return made


# --- rows -------------------------------------------------------------------------------------------


def equality_rows() -> Figures:
    """Keep or drop, and the score, as the rouge-score package has them, on pairs near the limit."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer, draw, tasks = RougeScorer(["rougeL"], use_stemmer=False), random.Random(0), published_tasks()
    words = [word for task in tasks for word in task.instruction.split()]
    same = dropped = 0
    for _ in range(NUM_PAIRS):
        one = draw.choice(tasks).instruction
        other = changed(one, words, draw, share=0.8)
        score = scorer.score(one, other)["rougeL"].fmeasure
        index = RougeIndex(0.7)
        index.add(one)
        match = index.most_alike(other)
        same += (None if match is None else match.rouge_l) == (score if score > 0.7 else None)
        dropped += score > 0.7
    return (
        {f"verdicts as rouge-score's, of {NUM_PAIRS:,} pairs": row(same, NUM_PAIRS, same == NUM_PAIRS)},
        {"pairs": NUM_PAIRS, "dropped": dropped, "from": len(tasks)},
    )


def speed_rows() -> Figures:
    """All filters over as many candidates as Alpaca has instructions, one after another, on one thread."""
    found: dict[str, Any] = {"candidates": NUM_CANDIDATES, "from": len(published_tasks())}
    wanted = candidates(NUM_CANDIDATES, random.Random(0))
    for name, limit in (("rouge_l 0.7", 0.7), ("everything else kept", 1.0)):
        judge, started = TaskFilter(FilterConfig(max_rouge_l=limit), read_seeds(None)), time.perf_counter()
        reasons: dict[str, int] = {}
        for task in wanted:
            refusal = judge.refusal(task)
            if refusal is None:
                judge.add(task)
            reason = "kept" if refusal is None else refusal.reason
            reasons[reason] = reasons.get(reason, 0) + 1
        found[name] = {"seconds": round(time.perf_counter() - started, 1), **reasons}
    seconds = found["rouge_l 0.7"]["seconds"]
    return {f"seconds to filter {NUM_CANDIDATES:,} candidates": row(seconds, "< 600", seconds < 600)}, found


def kill_rows() -> Figures:
    """The command killed (SIGKILL) at random instants and started again: the same files as without."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        recorded = write_recording(Path(folder) / "completions.jsonl", 1000)
        command = [
            *(
                sys.executable,
                "-m",
                "ligo.instruct",
                "teacher=replay",
                f"teacher.path={recorded}",
                "count=10000",
            ),
            "filter.max_rouge_l=0.9",
        ]

        def start(name: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [*command, f"run.dir={folder}/{name}"], cwd=REPO, stdout=subprocess.DEVNULL
            )

        def requests_done() -> int:
            judged = Path(folder, "killed", "provenance.jsonl")
            return judged.read_bytes().count(b"\n") if judged.exists() else 0

        assert start("whole").wait() == 0
        killed_at: list[int] = []
        while len(killed_at) < NUM_KILLS:
            process, enough = start("killed"), requests_done() + draw.randrange(12)
            while requests_done() <= enough and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.random() / 20)  # anywhere between two of its writes
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
            killed_at.append(requests_done())
        assert start("killed").wait() == 0
        files = {
            name: [
                (Path(folder) / name / f"{kind}.jsonl").read_bytes()
                for kind in ("instructions", "provenance")
            ]
            for name in ("whole", "killed")
        }
        instructions = files["whole"][0].count(b"\n")
    same = files["whole"] == files["killed"]
    return {f"same files after {NUM_KILLS} kills": row(same, True, same)}, {
        "requests_done_at_each_kill": killed_at,
        "instructions": instructions,
    }


def write_recording(path: Path, count: int) -> Path:
    """Completions of 16 tasks each."""
    prompts, made = (
        Prompts(read_seeds(None), PromptConfig(), 0),
        iter(candidates(16 * count, random.Random(1))),
    )
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            tasks = [asdict(next(made)) for _ in range(16)]
            text = "\n".join(json.dumps(task) for task in tasks)
            file.write(
                json.dumps(asdict(Completion(number, prompts[number].digest, text, "stop", 900, 1500))) + "\n"
            )
    return path


MEASURES = (equality_rows, speed_rows, kill_rows)


if __name__ == "__main__":
    finish("instruct", *run_measures(MEASURES))
