"""Completions as a teacher might have written them, good and bad, made up from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from ligo.instruction.config import PromptConfig
from ligo.instruction.prompt import Prompts, Request
from ligo.instruction.seeds import read_seeds
from ligo.instruction.teachers.base import Completion

VERBS = (
    "Describe",
    "Explain",
    "List",
    "Compare",
    "Translate",
    "Summarise",
    "Invent",
    "Draw",
    "Judge",
    "Count",
)
THINGS = (
    "rivers",
    "a violin",
    "old letters",
    "the moon",
    "bread",
    "prime numbers",
    "bridges",
    "sheep",
    "rain",
    "ink",
)
ENDS = (
    "for a child",
    "in two sentences",
    "with an example",
    "as a table",
    "in your own words",
    "step by step",
)


def default_prompts(seed: int = 0) -> Prompts:
    return Prompts(read_seeds(None), PromptConfig(), seed)


def made_up(request: Request) -> Completion:
    """A function of the request's number: blocks or JSON, some of them broken, cut, repeated or not wanted."""
    draw = random.Random(request.number)
    tasks = [
        {
            "instruction": f"{draw.choice(VERBS)} {draw.choice(THINGS)} and {draw.choice(THINGS)} {draw.choice(ENDS)}.",
            "input": draw.choice(["", "some é text"]),
            "output": draw.choice(["An answer\nof two lines.", "Yes.", ""]),
        }
        for _ in range(6)
    ]
    if request.number % 3 == 0:
        text = "\n".join(json.dumps(task) for task in tasks)
    else:
        text = " " + "\n\n".join(
            f"{'' if n == 0 else f'### Task {n + 4}{chr(10)}Instruction: '}{task['instruction']}\n"
            f"Input: {task['input'] or '<none>'}\nOutput: {task['output']}"
            for n, task in enumerate(tasks)
        )
    finish = "length" if request.number % 5 == 4 else "stop"
    return Completion(
        request=request.number,
        prompt=request.digest,
        text=text[:-20] if finish == "length" else text,
        finish=finish,
        prompt_tokens=100,
        completion_tokens=10 + request.number,
    )


class ShuffledTeacher:
    """Answers up to `at_once` requests in an order of its own."""

    def __init__(
        self, at_once: int, seed: int = 0, answer: Callable[[Request], Completion] = made_up
    ) -> None:
        self._at_once, self._random, self._answer = at_once, random.Random(seed), answer
        self.asked: list[int] = []

    def complete(self, next_request: Callable[[], Request | None]) -> Iterator[Completion]:
        waiting: list[Request] = []
        while True:
            while len(waiting) < self._at_once and (request := next_request()) is not None:
                waiting.append(request)
                self.asked.append(request.number)
            if not waiting:
                return
            yield self._answer(waiting.pop(self._random.randrange(len(waiting))))


def write_recording(path: Path, count: int) -> Path:
    prompts = default_prompts()
    lines = [json.dumps(asdict(made_up(prompts[number]))) + "\n" for number in range(count)]
    path.write_text("".join(lines), encoding="utf-8")
    return path
