"""Tokenising against `datasets.map` with the same tokenizer, its memory, and what a batch costs of a step.

    python -m benchmarks.data [FILE.txt.gz]

The text is cut into documents of about 4,000 characters, 60 MB of them. Both sides use all cores and the same tokenizer,
that of tiny-llama, and end with ids on the disk; ours includes hashing and counting the text, theirs does not include
reading it into a table. Figures go to benchmarks/results/data.json.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.common import REPO, finish, row
from ligo.core.errors import require
from ligo.core.files import read_json
from ligo.data.config import DataConfig
from ligo.data.loader import Batches
from ligo.data.prefetch import prefetched
from ligo.data.tokenize import prepare
from ligo.data.workers import num_cores

BOOKS = REPO.parent / "shared" / "data" / "classic-books" / "train.txt.gz"
ZOO = REPO / "ligo" / "zoo" / "tiny-llama"
MEGABYTES = 60
DOCUMENT = 4000  # characters
PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


# --- one measurement, in a process of its own -------------------------------------------------------


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ZOO)


class Stopwatch:
    """Wall seconds, and CPU seconds of this process and of those that it started and that have ended."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": cpu_seconds() - self._cpu}


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in PROCESSES]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def ours(path: str, cache: str) -> dict[str, float]:
    """Seconds, tokens, and the peak memory of all processes, were each at its peak at the same time."""
    tokens, spent = tokenizer(), Stopwatch()
    corpus = prepare(DataConfig(path=path, cache_dir=cache), tokens, vocab_size=len(tokens))
    figures = spent.read()
    own, child = (resource.getrusage(who).ru_maxrss for who in PROCESSES)
    written = len(corpus.train) + len(corpus.validation)
    return {**figures, "tokens": written, "peak_bytes": 1024 * (own + num_cores() * child)}


def theirs(path: str, cache: str) -> dict[str, float]:
    datasets = require("datasets", extra="data", why="the comparison")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process per core, as the library advises
    tokens = tokenizer()
    table = datasets.load_dataset("json", data_files=path, split="train", cache_dir=cache)

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {
            "input_ids": tokens(batch["text"], add_special_tokens=False, return_attention_mask=False)[
                "input_ids"
            ]
        }

    spent = Stopwatch()
    mapped = table.map(encode, batched=True, num_proc=num_cores(), remove_columns=["text"])
    figures = spent.read()
    return {**figures, "tokens": sum(len(ids) for ids in mapped["input_ids"])}


def alone(which: str, path: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data", which, str(path), str(cache)]
    done = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


# --- rows -------------------------------------------------------------------------------------------


def documents(source: Path) -> Iterator[str]:
    """The text in documents of about DOCUMENT characters, over and over."""
    text = gzip.decompress(source.read_bytes()).decode().replace("<|endoftext|>", "")
    while True:
        start = 0
        while start < len(text):
            end = text.find("\n\n", start + DOCUMENT) + 1 or len(text)
            yield text[start:end]
            start = end


def write_text(path: Path, source: Path, megabytes: int) -> None:
    size = 0
    with open(path, "w", encoding="utf-8") as file:
        for document in documents(source):
            if size >= megabytes * 10**6:
                return
            size += len(document.encode())
            file.write(json.dumps({"text": document}) + "\n")


def tokenise_rows(source: Path = BOOKS, repeats: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
    """Speed against `datasets.map`, the fastest of several runs that take turns; memory on a quarter of the text."""
    runs: dict[str, list[dict[str, float]]] = {"theirs": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        whole, quarter = Path(folder, "whole.jsonl"), Path(folder, "quarter.jsonl")
        write_text(whole, source, MEGABYTES)
        write_text(quarter, source, MEGABYTES // 4)
        for number in range(repeats):
            for which, measured in runs.items():
                measured.append(alone(which, whole, Path(folder, f"{which} {number}")))
        small = alone("ours", quarter, Path(folder, "small"))
    peer, large = (min(measured, key=lambda run: run["seconds"]) for measured in runs.values())
    faster = peer["seconds"] / large["seconds"]
    growth = large["peak_bytes"] / small["peak_bytes"]
    return {
        "tokenising, times as fast as datasets.map": row(faster, ">= 1", faster >= 1),
        "peak memory on 4 times the text": row(growth, "<= 1.05", growth <= 1.05),
    }, {
        "megabytes": MEGABYTES,
        "cores": num_cores(),
        "datasets.map": peer,
        "ligo": large,
        "ligo, a quarter": small,
    }


def pipeline_rows(steps: int = 100) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds that a step of tiny-llama waits for its batch / seconds of that step."""
    import torch
    from transformers import AutoModelForCausalLM

    from ligo.core.libraries import quiet_libraries
    from ligo.families.base import family_of
    from ligo.training.config import TrainConfig, batch_shape
    from ligo.training.engines import make_engine
    from ligo.training.objectives import make_objective

    quiet_libraries()
    torch.set_num_threads(1)
    training, length = TrainConfig(batch_tokens=1024, engine="torch"), 128
    shape = batch_shape(training, length, 1)
    objective = make_objective(family_of(read_json(ZOO / "config.json")), tokenizer)
    data = DataConfig(path="package:bible/data/kjv.jsonl", group_keys=["book", "chapter"], extra="demo")
    batches = Batches(objective.prepare(data), length, shape.windows, seed=0)
    engine = make_engine(AutoModelForCausalLM.from_pretrained(ZOO), objective, training, shape, {})
    waited: dict[str, float] = {}
    stepped: dict[str, float] = {}
    for name, source in {"ahead": prefetched(batches), "when asked for": nullcontext(batches)}.items():
        waits, works = 0.0, 0.0
        with source as windows:
            engine.step(windows[0], 0.0)
            for step in range(1, steps + 1):
                started = time.perf_counter()
                batch = windows[step]
                fetched = time.perf_counter()
                engine.step(batch, 0.0)
                waits, works = waits + fetched - started, works + time.perf_counter() - fetched
        waited[name], stepped[name] = waits / steps, works / steps
    share = waited["ahead"] / stepped["ahead"]
    return {
        "waiting for a batch / a step of tiny-llama": row(share, "<= 0.01", share <= 0.01),
    }, {"seconds waited per step": waited, "seconds per step": stepped}


def main() -> None:
    if len(sys.argv) == 4:
        print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[1]](*sys.argv[2:])))
        return
    rows, details = tokenise_rows(Path(sys.argv[1]) if len(sys.argv) == 2 else BOOKS)
    more, pipeline = pipeline_rows()
    finish("data", rows | more, {"tokenise": details, "pipeline": pipeline})


if __name__ == "__main__":
    main()
