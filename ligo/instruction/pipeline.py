"""The run: ask, record, judge in the order of requests, write.

    completions.jsonl    what the teacher wrote, as it arrived: paid once, and a recording to replay
    instructions.jsonl   the tasks that were kept: {instruction, input, output}
    provenance.jsonl     one line per request, in order: what it showed, which lines it gave, what was dropped and why

Prompts are functions of (seed, number of the request), and completions are judged in the order of requests, whatever
order they arrived in. So instructions and provenance are a function of the completions alone. A line of provenance is
written after its instructions: it says that its request is done. After a kill the instructions behind the last such
line are cut off and made again from completions.jsonl.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ligo.core.errors import ResourceError
from ligo.core.log import progress
from ligo.instruction.config import InstructConfig
from ligo.instruction.filter import TaskFilter
from ligo.instruction.lines import JsonLines
from ligo.instruction.parse import Task, parse
from ligo.instruction.prompt import Prompts, Request
from ligo.instruction.teachers.base import Completion, Teacher
from ligo.instruction.teachers.replay import read_completions

_AHEAD = 4
"""Requests may run ahead of the first unanswered one by this many times the concurrency."""


class Generation:
    """One run in one folder. `run` it; the numbers are in `summary`."""

    def __init__(self, folder: Path, config: InstructConfig, seeds: Sequence[Task], prompts: Prompts) -> None:
        """Take up what the folder holds.

        Raises:
            DataError: a file of the folder was changed from outside.
            ResourceError: the folder cannot be written.
        """
        self._config, self._prompts, self._num_seeds = config, prompts, len(seeds)
        self._completions = JsonLines(folder / "completions.jsonl")
        self._instructions = JsonLines(folder / "instructions.jsonl")
        self._provenance = JsonLines(folder / "provenance.jsonl")
        self._filter = TaskFilter(config.filter, seeds)
        self._tokens: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._arrived: dict[int, Completion] = {}
        """Not judged yet."""
        self._under_way: dict[int, float] = {}
        """Requests that were sent, and what each can cost at most."""
        self._no_more = False
        self._num_judged = self._num_kept = self._num_arrived = self._fruitless = 0
        self._take_up()

    def _take_up(self) -> None:
        """Go on from what the folder holds."""
        for line in self._provenance.read():
            if set(line) != _PROVENANCE or line["request"] != self._num_judged:
                raise self._provenance.changed(self._num_judged + 1, f"what request {self._num_judged} gave")
            self._count(line)
        self._instructions.keep(self._num_kept)
        for number, record in enumerate(self._instructions.read(), start=1):
            if set(record) != _TASK:
                raise self._instructions.changed(number, ", ".join(sorted(_TASK)))
            self._filter.add(Task(**record))
        for number, completion in read_completions(self._completions.path).items():
            self._account(completion)
            if number >= self._num_judged:
                self._arrived[number] = completion

    def run(self, teacher: Teacher) -> None:
        """Ask until there are enough instructions, or a limit is reached.

        Raises:
            Interrupted: the teacher does not answer now; what has arrived is kept.
            LigoError: as the teacher does.
            ResourceError: the disk is full.
        """
        with progress("instructions", self._config.count) as bar:
            bar.advance(self._num_kept)
            bar.advance(self._judge())
            for completion in teacher.complete(self._next_request):
                self._completions.append([asdict(completion)])
                self._account(completion)
                del self._under_way[completion.request]
                self._arrived[completion.request] = completion
                bar.advance(self._judge(), note=f"cost {self.cost:.2f}" if self.cost else "")
        self._no_more = True

    def close(self) -> None:
        for file in (self._completions, self._instructions, self._provenance):
            file.close()

    @property
    def cost(self) -> float:
        """Of all completions that have arrived."""
        teacher = self._config.teacher
        return (
            self._tokens["prompt"] * teacher.prompt_price
            + self._tokens["completion"] * teacher.completion_price
        ) / 1000

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and costs of the run so far, over all its starts.

        `ended_by` is count, patience, max_cost, or teacher where it had no more; null where the run goes on.
        """
        too_dear = self._too_dear(self._prompts[self._next_number()])
        return {
            "instructions": self._num_kept,
            "requests": self._num_judged,
            "ended_by": self._ended_by or ("max_cost" if too_dear else "teacher" if self._no_more else None),
            "dropped": dict(sorted(self._dropped.items())),
            "completions": self._num_arrived,
            "tokens": {"prompt": self._tokens["prompt"], "completion": self._tokens["completion"]},
            "cost": round(self.cost, 6),
        }

    # what to ask

    @property
    def _ended_by(self) -> str | None:
        """What the judged completions end the run by, or None."""
        if self._num_kept >= self._config.count:
            return "count"
        if self._fruitless >= self._config.patience:
            return "patience"
        return None

    def _next_request(self) -> Request | None:
        """What to ask next; None where nothing may be asked before more has arrived, or at all."""
        number = self._next_number()
        request = self._prompts[number]
        ahead = number - self._num_judged >= _AHEAD * self._config.teacher.concurrency
        if ahead or self._ended_by is not None or self._too_dear(request):
            return None
        self._under_way[number] = self._most(request)
        return request

    def _next_number(self) -> int:
        number = self._num_judged
        while number in self._arrived or number in self._under_way:
            number += 1
        return number

    def _too_dear(self, request: Request) -> bool:
        limit = self._config.max_cost
        spent = self.cost + sum(self._under_way.values())
        return limit is not None and spent + self._most(request) > limit

    def _most(self, request: Request) -> float:
        """The most that a request can cost: a token has a byte or more, and a chat template adds some."""
        teacher = self._config.teacher
        prompt_tokens = len(request.prompt.encode()) + _TEMPLATE_TOKENS
        return (prompt_tokens * teacher.prompt_price + teacher.max_tokens * teacher.completion_price) / 1000

    # what came back

    def _account(self, completion: Completion) -> None:
        self._num_arrived += 1
        self._tokens["prompt"] += completion.prompt_tokens
        self._tokens["completion"] += completion.completion_tokens

    def _judge(self) -> int:
        """Judge what has arrived, as far as it goes without a gap; how many instructions were kept."""
        before = self._num_kept
        while self._ended_by is None and self._num_judged in self._arrived:
            kept, line = self._judged(self._arrived.pop(self._num_judged))
            self._instructions.append(asdict(task) for task in kept)
            self._provenance.append([line])
            self._count(line)
        return self._num_kept - before

    def _judged(self, completion: Completion) -> tuple[list[Task], dict[str, Any]]:
        """The tasks to keep of a completion, and its line of provenance."""
        parsed = parse(completion.text, cut=completion.finish == "length")
        kept: list[Task] = []
        sources: list[dict[str, Any]] = []
        dropped: list[dict[str, Any]] = []
        for item, task in enumerate(parsed.tasks):
            refusal = self._filter.refusal(task)
            if refusal is None:
                self._filter.add(task)
                kept.append(task)
                sources.append({"line": self._num_kept + len(kept), "item": item})
            else:
                like = (
                    {}
                    if refusal.like is None
                    else {"like": self._name(refusal.like), "rouge_l": refusal.rouge_l}
                )
                dropped.append({"item": item, "reason": refusal.reason, **like})
        line = {
            "request": completion.request,
            "prompt": completion.prompt,
            "seeds": self._prompts[completion.request].shown,
            "finish": completion.finish,
            "kept": sources,
            "dropped": dropped,
            "broken": parsed.num_broken,
        }
        return kept, line

    def _name(self, number: int) -> str:
        """An instruction by its number in the filter."""
        return f"seed {number}" if number < self._num_seeds else f"line {number - self._num_seeds + 1}"

    def _count(self, line: dict[str, Any]) -> None:
        """Take a line of provenance into the numbers."""
        self._num_judged += 1
        self._num_kept += len(line["kept"])
        self._fruitless = 0 if line["kept"] else self._fruitless + 1
        self._dropped.update(drop["reason"] for drop in line["dropped"])
        self._dropped["broken"] += line["broken"]


_TEMPLATE_TOKENS = 64
_TASK = {"instruction", "input", "output"}
_PROVENANCE = {"request", "prompt", "seeds", "finish", "kept", "dropped", "broken"}


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Refuse a second process in the same run folder.

    Raises:
        ResourceError: another one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(
                f"another process is at work in {folder}.\n  Try: wait for it, or another run.dir=DIR"
            ) from None
        yield
