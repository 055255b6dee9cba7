"""What a `.wandb` file holds, read from its bytes: LevelDB's log format around wandb's own protobuf records."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _FILE_HEADER, _RECORD_HEADER = 32768, 7, 7
_WAIT_S = 20.0
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class Artifact:
    name: str
    type: str
    digest: str
    aliases: list[str]
    used: bool
    """Sent as a use: an input of the run; otherwise an output."""
    entries: dict[str, str]
    """Name of a file -> its reference, or where it lies."""
    metadata: dict[str, Any]


@dataclass
class Recorded:
    """One W&B run."""

    folder: Path = Path()
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    ended: bool = False

    @property
    def used(self) -> dict[str, str]:
        """Role -> name of the artifacts it takes."""
        return {a.metadata["role"]: a.name for a in self.artifacts if a.used}

    @property
    def logged(self) -> dict[str, str]:
        return {a.metadata["role"]: a.name for a in self.artifacts if not a.used}


def recorded(folder: Path) -> Recorded:
    """The run in an `offline-run-*` folder; its last records are written just after `finish` has returned."""
    deadline = time.monotonic() + _WAIT_S
    while not (run := _read(folder)).ended:
        assert time.monotonic() < deadline, f"{folder} was never finished"
        time.sleep(0.05)
    return run


def _read(folder: Path) -> Recorded:
    from wandb.proto import wandb_internal_pb2 as messages

    (file,) = folder.glob("*.wandb")
    run = Recorded(folder)
    for payload in _payloads(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            run.group, run.job_type = record.run.run_group, record.run.job_type
            run.config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            row = {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item
            }
            run.history.append({key: value for key, value in row.items() if not key.startswith("_")})
        elif kind == "summary":
            run.summary |= {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "exit":
            run.ended = True
        elif kind == "artifact":
            run.artifacts.append(_artifact(record.artifact))
    return run


def recorded_runs(folder: Path) -> dict[str, Recorded]:
    """All runs below a run folder, in the order in which they were begun, by job type."""
    found = [
        recorded(path) for path in sorted(folder.glob("wandb/offline-run-*"), key=lambda p: p.stat().st_ctime)
    ]
    return {run.job_type: run for run in found}


def _artifact(record: Any) -> Artifact:
    return Artifact(
        record.name, record.type, record.digest, list(record.aliases), record.use_after_commit,
        {entry.path: entry.ref or entry.local_path for entry in record.manifest.contents},
        json.loads(record.metadata or "{}"),
    )  # fmt: skip


def _payloads(content: bytes) -> Iterator[bytes]:
    position, parts = _FILE_HEADER, b""
    while position + _RECORD_HEADER <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD_HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        start = position + _RECORD_HEADER
        position = start + length
        if kind in (_WHOLE, _FIRST):
            parts = b""
        parts += content[start:position]
        if kind in (_WHOLE, _LAST):
            yield parts
