"""python -m ligo.instruct: from seed tasks to instructions, written by a teacher model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ligo.command import main
from ligo.core.errors import DataError, check_installed
from ligo.core.log import say
from ligo.instruction.config import InstructConfig, TeacherConfig, check
from ligo.options import Options

OPTIONS = Options("instruct", InstructConfig, {"teacher": TeacherConfig}, check)
DESCRIPTION = "Have a teacher model write instructions, inputs and outputs to tune on, from 175 seed tasks."
EXAMPLES = (
    "python -m ligo.instruct teacher=openai teacher.model=NAME teacher.prompt_price=0.001 "
    "teacher.completion_price=0.004 max_cost=100",
    "python -m ligo.instruct teacher=local teacher.path=DIR count=1000 run.dir=runs/mine",
)


def instruct(config: InstructConfig, config_yaml: str) -> None:
    """Make instructions until there are enough, or a limit is reached.

    Raises:
        LigoError: with the exit code that fits; 75 where the teacher does not answer now, since the same command
            goes on once it does.
    """
    from ligo.core.files import write_json
    from ligo.core.run import Run
    from ligo.instruction.pipeline import Generation, only_one
    from ligo.instruction.prompt import Prompts
    from ligo.instruction.seeds import read_seeds
    from ligo.instruction.teachers.base import TEACHERS

    check_installed("rapidfuzz", extra="instruct", why="comparing instructions by ROUGE-L")
    seeds = read_seeds(config.prompt.seeds)
    prompts = Prompts(seeds, config.prompt, config.seed)
    teacher = TEACHERS.get(config.teacher.name)(config.teacher, config.seed)
    run = Run(Path(config.run.dir).expanduser())
    with only_one(run.folder):
        run.open(decisive(config, [asdict(task) for task in seeds]), config_yaml, config.seed)
        with run.keeping_status():
            generation = Generation(run.folder, config, seeds, prompts)
            try:
                generation.run(teacher)
            finally:
                write_json(run.summary, generation.summary)
                generation.close()
            summary = generation.summary
            say(told(summary, run.folder))
            if summary["ended_by"] == "patience":
                raise DataError(
                    f"the last {config.patience} completions gave no new task; of all tasks, were dropped: "
                    f"{counts(summary['dropped'])}.\n"
                    "  Read completions.jsonl of the run folder.\n"
                    "  Try: another teacher or prompt.template, or more patience="
                )


def decisive(config: InstructConfig, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """What decides which instructions come out; how many, how fast and for how much may change between starts."""
    teacher = {
        key: getattr(config.teacher, key) for key in ("name", "model", "temperature", "top_p", "request")
    }
    prompt = {key: value for key, value in asdict(config.prompt).items() if key != "seeds"}
    return {
        "teacher": teacher,
        "prompt": prompt,
        "seeds": seeds,
        "filter": asdict(config.filter),
        "seed": config.seed,
    }


def told(summary: dict[str, Any], folder: Path) -> str:
    """The summary in words."""
    tokens = summary["tokens"]
    return (
        f"{summary['instructions']:,} instructions from {summary['requests']:,} requests in {folder}"
        f" (ended by: {summary['ended_by']})\n"
        f"  dropped: {counts(summary['dropped']) or 'nothing'}\n"
        f"  tokens: {tokens['prompt']:,} of prompts, {tokens['completion']:,} of completions; cost {summary['cost']:.2f}"
    )


def counts(dropped: dict[str, int]) -> str:
    """'12 similar, 3 too short'."""
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)


if __name__ == "__main__":
    main(instruct, DESCRIPTION, EXAMPLES, OPTIONS)
