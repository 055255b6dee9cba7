"""JSON that is meant to hurt: too large, too deep, ambiguous, and numbers that ask for more than there is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import peak_resident_bytes
from ligo.checkpoint.inspect import ADAPTER_CONFIG, INDEX_FILE, inspect_adapter
from ligo.checkpoint.reader import Checkpoint
from ligo.core.errors import CheckpointError
from ligo.families.base import family_of
from tests.trust.samples import CONFIG

DEPTH, LARGE = 10_000, 100_000_000
MOST_SECONDS, MOST_BYTES = 1.0, 64 * 2**20


def _config(**keys: Any) -> bytes:
    return json.dumps({**CONFIG, **keys}).encode()


def _text(value: str) -> bytes:
    """A config with a value that no JSON writer makes."""
    return f'{{"model_type": "llama", "hidden_size": {value}}}'.encode()


CONTENTS: dict[str, Callable[[], bytes]] = {
    "100 MB of one text": lambda: b'{"a": "' + b"x" * LARGE + b'"}',
    "100 MB of brackets": lambda: b"[" * LARGE,
    "100 MB of spaces": lambda: b" " * LARGE + b"{}",
    "4 MB of brackets": lambda: b"[" * (2**22),
    "4 MB of empty objects": lambda: b"[" + b"{}," * (2**20) + b"{}]",
    "4 MB of numbers": lambda: b'{"a": [' + b"1," * (2**20) + b"1]}",
    "10,000 lists deep": lambda: b'{"a": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    "10,000 objects deep": lambda: b'{"a": ' * DEPTH + b"1" + b"}" * DEPTH,
    "10,000 deep and never closed": lambda: b'{"a": ' + b"[" * DEPTH,
    "hidden_size 1e308": lambda: _text("1e308"),
    "hidden_size 1e999": lambda: _text("1e999"),
    "hidden_size NaN": lambda: _text("NaN"),
    "hidden_size Infinity": lambda: _text("-Infinity"),
    "hidden_size of a million digits": lambda: _text("9" * 10**6),
    "hidden_size 1e9": lambda: _config(hidden_size=10**9),
    "hidden_size 1e8": lambda: _config(hidden_size=10**8),
    "hidden_size -16": lambda: _config(hidden_size=-16),
    "hidden_size 0": lambda: _config(hidden_size=0),
    "hidden_size 16.5": lambda: _config(hidden_size=16.5),
    "hidden_size a text": lambda: _config(hidden_size="16"),
    "intermediate_size 1e9": lambda: _config(intermediate_size=10**9),
    "vocab_size 1e9": lambda: _config(vocab_size=10**9),
    "num_hidden_layers 1e9": lambda: _config(num_hidden_layers=10**9),
    "num_hidden_layers 1e4": lambda: _config(num_hidden_layers=10**4),
    "num_attention_heads 1e9": lambda: _config(num_attention_heads=10**9),
    "max_position_embeddings 1e12": lambda: _config(max_position_embeddings=10**12),
    "num_labels 1e9": lambda: _config(num_labels=10**9),
    "num_local_experts 1e9": lambda: _config(model_type="mixtral", num_local_experts=10**9),
    "layer_types of 400,000": lambda: _config(layer_types=["full_attention"] * 400_000),
    "a key twice": lambda: b'{"hidden_size": 16, "hidden_size": 1000000000}',
    "no UTF-8": lambda: b'{"a": "\xff"}',
    "UTF-16": lambda: '{"a": 1}'.encode("utf-16"),
    "a list": lambda: b"[1]",
    "a number": lambda: b"1",
    "nothing": lambda: b"",
}
FILES = (
    "config.json",
    INDEX_FILE,
    "tokenizer_config.json",
    "generation_config.json",
    ADAPTER_CONFIG,
    "x.safetensors",
)
"""Where it is put. What is a config alone (a size) goes into config.json and the adapter's."""


@dataclass(frozen=True)
class Outcome:
    """What came of one file."""

    said: str | None
    """The words of the refusal; None: it was not refused."""
    seconds: float
    more_bytes: int
    """Peak of resident memory above what was held before."""

    @property
    def good(self) -> bool:
        return self.said is not None and self.seconds < MOST_SECONDS and self.more_bytes < MOST_BYTES


def cases() -> list[tuple[str, str]]:
    """(what, file): everything into the config, all but sizes into the others."""
    shapes = [what for what in CONTENTS if "_" not in what]
    return [("config.json", what) for what in CONTENTS] + [
        (file, what) for file in FILES[1:] for what in shapes
    ]


def put(folder: Path, file: str, what: str) -> None:
    content = CONTENTS[what]()
    if file == "x.safetensors":
        content = len(content).to_bytes(8, "little") + content
    (folder / file).write_bytes(content)


def measured(folder: Path, file: str) -> Outcome:
    """What opening a folder comes to, in a process of its own, whose memory begins at what this one has now."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        answer = json.dumps(_opened(folder, file))
        os.write(into, answer.encode())
        os._exit(0)
    os.close(into)
    with open(out, "rb") as answer:
        found = answer.read()
    os.waitpid(child, 0)
    return Outcome(*json.loads(found)) if found else Outcome(None, 0.0, 0)


def _opened(folder: Path, file: str) -> tuple[str | None, float, int]:
    before, started = peak_resident_bytes(), time.perf_counter()
    said: str | None = None
    try:
        if file == ADAPTER_CONFIG:
            inspect_adapter(folder)
        else:
            family_of(Checkpoint.open(folder).config)
    except CheckpointError as error:
        said = str(error)
    except BaseException as error:  # whatever it is, it is not a refusal
        print(f"{file}: {error!r}")
    return said, time.perf_counter() - started, peak_resident_bytes() - before
