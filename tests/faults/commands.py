"""The commands as `python -m` starts them, in forks of this process, which has imported what they need.

It has one thread, so that a fork of it is as good as a start, and takes a hundredth of the time.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
import transformers

from ligo.core.libraries import quiet_libraries

torch.set_num_threads(1)
quiet_libraries()
for needed in ("LlamaForCausalLM", "PreTrainedTokenizerFast"):
    getattr(transformers, needed)
for module in (
    "bokeh.plotting",
    "huggingface_hub",
    "jinja2",
    "ligo.growth.verify",
    "ligo.training.loop",
    "peft",
):
    importlib.import_module(module)
for command in ("grow", "plan", "report", "sweep", "tune", "instruct", "sync", "export", "launch", "doctor"):
    importlib.import_module(f"ligo.{command}")

PATIENCE_S = 300.0

SMALL = (
    "small=scratch",
    "small.shape={vocab_size: 300, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,"
    " num_key_value_heads: 1, intermediate_size: 24, max_position_embeddings: 512}",
    "small.train.max_tokens=2048",
)
GROWTH = (
    "target=custom", "target.hidden_size=24", "target.num_attention_heads=3", "target.num_key_value_heads=3",
    "target.intermediate_size=40", "target.num_hidden_layers=3", "train.engine=torch", "train.batch_tokens=256",
    "train.max_tokens=4096", "train.evaluate_every=4", "train.save_every=4", "train.keep_every=8", "scratch.max_tokens=4096",
    "operator.steps=2", "operator.batch_tokens=256", "operator.evaluate_every=2", "data=custom",
    "data.sequence_length=32", "data.validation_tokens=1024",
)  # fmt: skip


QUIET = ("tracking=jsonl", "operator=exact")


def start(
    command: str, arguments: Sequence[str], folder: Path, *, variables: Mapping[str, str] | None = None,
    first: Callable[[], None] = lambda: None,
) -> int:  # fmt: skip
    """Fork `python -m ligo.COMMAND` in `folder`; what it prints goes to the file of `log_of`.

    Args:
        variables: of the environment, to add.
        first: what the new process does before anything else.

    Returns:
        Its process id.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        handle = os.open(log_of(folder, command), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(folder)
        os.environ.update(variables or {})
        sys.argv = ["ligo", *arguments]
        warnings.simplefilter("ignore")
        first()
        runpy.run_module(f"ligo.{command}", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # nothing of the parent's is to be cleaned up here


def run(command: str, arguments: Sequence[str], folder: Path, **options: object) -> int:
    """The same, and its exit code once it has ended; -9 where it was killed."""
    return end_of(start(command, arguments, folder, **options))  # type: ignore[arg-type]


def end_of(pid: int) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} did not end within {PATIENCE_S:.0f} s")


def log_of(folder: Path, command: str) -> Path:
    return folder / f"{command}.log"


def complaint(folder: Path, command: str) -> str | None:
    """What is wrong with the words that a command has ended with: a traceback, or no way on; None if nothing is."""
    text = log_of(folder, command).read_text(errors="replace")
    if "Traceback (most recent call last)" in text:
        return text[-1500:]
    return None if "Try: " in text or "goes on" in text else f"no word of how to go on: {text[-500:]}"


def write_text_file(path: Path) -> Path:
    """Fables enough for the tiny runs."""
    animals, deeds = ("fox", "crow", "ant", "lion", "mouse"), ("saw", "asked", "helped", "met", "thanked")
    path.write_text(
        "".join(
            f"The {animals[i % 5]} {deeds[i * 7 % 5]} the {animals[(i * 3 + 1) % 5]} on day {i % 31}.\n"
            for i in range(800)
        )
    )
    return path


_KEPT = tempfile.TemporaryDirectory()  # as long as this process


@cache
def small_checkpoint() -> tuple[str, ...]:
    """Options of a small checkpoint that is trained now, once, and the text that goes with it."""
    folder = Path(_KEPT.name)
    text = write_text_file(folder / "fables.txt")
    run_dir = folder / "first"
    arguments = (
        *SMALL,
        *GROWTH,
        "operator=exact",
        "tracking=jsonl",
        f"data.path={text}",
        f"run.dir={run_dir}",
        "stages=[write]",
    )
    if code := run("grow", arguments, folder):
        raise RuntimeError(f"exit code {code}: {log_of(folder, 'grow').read_text()[-3000:]}")
    return "small=checkpoint", f"small.path={run_dir / 'small'}", *GROWTH, f"data.path={text}"


def newest(folder: Path) -> Path:
    """The newest checkpoint of the grown arm of a run."""
    return max((folder / "checkpoints" / "grown").glob("step-*"))
