"""Files that are not as they should be: what is read from them is used, or a `LigoError` says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ligo.core.errors import DataError, LigoError
from ligo.core.run import Run
from ligo.data.config import DataConfig
from ligo.data.corpus import open_foreign
from ligo.data.facts import Facts
from ligo.data.indexed import ShardWriter
from ligo.data.instructions import read_examples
from ligo.data.sources import documents
from ligo.evaluation.finetuning.squad import read_questions
from ligo.growth.plan import plan_growth
from ligo.instruction.lines import JsonLines
from ligo.instruction.seeds import read_seeds
from ligo.instruction.teachers.replay import read_completions
from ligo.reports.collect import load_run
from ligo.reports.html import write_report
from ligo.tracking.jsonl import JsonlTracker, read_records
from tests.families.tiny import RMS_DECODERS
from tests.growing import operator
from tests.instruction.recording import write_recording

few = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)

odd_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just("\ud83d")
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content cut off, with bytes changed, taken out or put in."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        how = draw(st.sampled_from(("cut", "flip", "out", "in")))
        if how == "cut":
            del changed[at:]
        elif how == "flip" and changed:
            changed[at] = draw(st.integers(0, 255))
        elif how == "out":
            del changed[at : at + draw(st.integers(1, 8))]
        else:
            changed[at:at] = draw(
                st.binary(min_size=1, max_size=8)
                | st.sampled_from((b'"', b"{", b"null", b"\n", b"[" * 20000))
            )
    return bytes(changed)


@st.composite
def odd_lines(draw: st.DrawFn, records: list[dict[str, Any]]) -> bytes:
    """Lines of JSON, of which some are other values, or lack keys, or hold odd ones."""
    lines = []
    for record in records:
        how = draw(st.sampled_from(("as it is", "other", "lacks", "odd")))
        found: Any = dict(record)
        if how == "other":
            found = draw(odd_json)
        elif how != "as it is":
            key = draw(st.sampled_from(sorted(found)))
            found.pop(key)
            if how == "odd":
                found[key] = draw(odd_json)
        lines.append(json.dumps(found))
    return "\n".join(lines).encode() + b"\n"


def words_or(read: Callable[[], Any]) -> Any:
    """What is read, or None where it is refused with words."""
    try:
        return read()
    except LigoError as error:
        assert str(error).strip()
        return None


TEXTS = [{"text": f"The fox saw the crow on day {day}.", "group": day // 2} for day in range(4)]


@few
@given(st.data())
def test_texts(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "texts.jsonl"
    plain = "".join(json.dumps(record) + "\n" for record in TEXTS).encode()
    file.write_bytes(data.draw(st.one_of(damaged(plain), odd_lines(TEXTS))))
    config = DataConfig(path=str(file), group_keys=data.draw(st.sampled_from(([], ["group"]))))
    found = words_or(lambda: list(documents(str(file), config)))
    for text in found or ():
        text.encode()  # what a tokenizer does first


CHATS = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}]
TASKS = [{"instruction": f"Say {number}.", "input": "", "output": str(number)} for number in range(3)]


@few
@given(st.data())
def test_instructions(tmp_path: Path, data: st.DataObject) -> None:
    records: list[dict[str, Any]] = data.draw(st.sampled_from((CHATS, TASKS)))
    suffix = data.draw(st.sampled_from((".json", ".jsonl")))
    file = tmp_path / f"tasks{suffix}"
    plain = json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records))
    file.write_bytes(data.draw(st.one_of(damaged(plain.encode()), odd_lines(records))))
    found = words_or(lambda: read_examples(file))
    for example in found.items if found else ():
        (example.prompt + example.response).encode()
    words_or(lambda: read_seeds(str(file)))


@few
@given(st.data())
def test_recorded_completions(tmp_path: Path, data: st.DataObject) -> None:
    whole = write_recording(tmp_path / "whole.jsonl", 3)
    records = [json.loads(line) for line in whole.read_text().splitlines()]
    file = tmp_path / "completions.jsonl"
    file.write_bytes(data.draw(st.one_of(damaged(whole.read_bytes()), odd_lines(records))))
    words_or(lambda: read_completions(file))


@few
@given(st.data())
def test_shards_of_tokens(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "shards"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with ShardWriter(folder / "a.bin", np.dtype(np.uint16)) as writer:
        for length in (5, 0, 9, 3):
            writer.append(np.arange(length))
    file = folder / data.draw(st.sampled_from(("a.idx", "a.bin")))
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    corpus = words_or(
        lambda: open_foreign(folder, "fuzz", Facts(tmp_path / "cache"), vocab_size=20, held_out=0.3)
    )
    if corpus is not None:  # then all of it can be read
        for stream in (corpus.train, corpus.validation):
            ids = np.asarray(stream) if len(stream) else np.zeros(0, dtype=np.int64)
            assert ((ids >= 0) & (ids < 20)).all()


RECORDS = [
    {"arm": arm, "step": step, "tokens": 100 * step, "flops": 1e9 * step, "wall_s": float(step), "eval/loss": 5.0 - step}
    for arm in ("grown", "scratch")
    for step in range(3)
]  # fmt: skip
SUMMARY: dict[str, Any] = {
    "name": "run", "command": "python -m ligo.grow", "arms": [{"name": "grown", "label": "grown", "final_loss": 3.0}],
    "savings": [], "notes": ["one seed"], "small": {"name": "s", "parameters": 10}, "target": {"name": "t", "parameters": 20},
}  # fmt: skip


@few
@given(st.data())
def test_metrics(tmp_path: Path, data: st.DataObject) -> None:
    plain = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.parent.mkdir(exist_ok=True)
    metrics.write_bytes(data.draw(st.one_of(damaged(plain), odd_lines(RECORDS))))
    (metrics.parent / "summary.json").write_text(json.dumps(SUMMARY))
    found = words_or(lambda: read_records(metrics))
    for record in found or ():
        assert {"arm", "step"} <= set(record)
    words_or(lambda: load_run(metrics.parent))
    tracker = JsonlTracker(metrics, tmp_path / "run" / "summary.json")
    if words_or(lambda: [tracker.rewind("grown", 1)]) is not None:
        assert read_records(metrics) == [r for r in found if r["arm"] != "grown" or r["step"] <= 1]


@settings(few, max_examples=12)
@given(st.data())
def test_summaries_and_plans_of_a_report(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    plain = json.dumps(SUMMARY).encode()
    (folder / "summary.json").write_bytes(plain)
    name = data.draw(st.sampled_from(("summary.json", "plan.json")))
    (folder / name).write_bytes(data.draw(st.one_of(damaged(plain), odd_lines([SUMMARY]))))
    words_or(lambda: write_report([folder], tmp_path / "report.html"))


@few
@given(st.data())
def test_the_folder_of_a_run(tmp_path: Path, data: st.DataObject) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir(exist_ok=True)
    plain = json.dumps({"write": {"num_bytes": 3}, "config_hash": "0f0f0f0f", "run_id": "a"}).encode()
    for name in ("stages.json", "manifest.json"):
        (run.folder / name).write_bytes(
            data.draw(st.one_of(damaged(plain), odd_json.map(lambda v: json.dumps(v).encode())))
        )
    words_or(run.stage_results)
    words_or(lambda: run.id)
    words_or(lambda: run.open({"seed": 0}, "seed: 0\n", seed=0))


SIZES = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "ffn_size",
    "vocab_size",
    "num_experts",
)


@st.composite
def odd_models(draw: st.DrawFn) -> dict[str, Any]:
    """config.json of a stock model, of which some keys lack or hold odd values."""
    config = dict(RMS_DECODERS[draw(st.sampled_from(("llama", "qwen3", "mixtral", "gemma2")))])
    for key in draw(st.lists(st.sampled_from(sorted(config)), max_size=3)):
        config.pop(key, None)
        if draw(st.booleans()):
            config[key] = draw(odd_json | st.integers(-3, 200))
    return config


@few
@given(odd_models(), st.dictionaries(st.sampled_from(SIZES), st.integers(1, 300), max_size=4))
def test_plans(model: dict[str, Any], wanted: dict[str, int]) -> None:
    words_or(lambda: plan_growth(model, wanted, operator()))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("texts.jsonl", lambda file: list(documents(str(file), DataConfig(path=str(file))))),
        ("tasks.json", read_examples),
        ("tasks.jsonl", read_examples),
        ("completions.jsonl", read_completions),
        ("squad.json", read_questions),
        ("candidates.jsonl", lambda file: JsonLines(file).read()),
        ("metrics.jsonl", read_records),
    ],
)
def test_nested_deeper_than_python_can_follow(tmp_path: Path, name: str, read: Callable[[Path], Any]) -> None:
    file = tmp_path / name
    file.write_text(100_000 * "[" + "\n{}\n")
    with pytest.raises(DataError, match="nested too deep|should stand here"):
        read(file)
