"""Loaders of other libraries are called in one place, behind an inspection; and never with what runs code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.conftest import REPO

DOOR = "checkpoint/load.py"
BEHIND_THE_DOOR = {"from_pretrained", "safe_open", "load_file"}
"""Calls that open files of others; the door inspects first."""
PICKLES = {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "dill.load"}
NEVER_TRUE = {"trust_remote_code", "allow_pickle"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """(file below ligo/, call) of every call in the source."""
    for file in sorted((REPO / "ligo").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield file.relative_to(REPO / "ligo").as_posix(), node


def test_stock_loaders_are_called_behind_the_door_alone() -> None:
    found = {
        (file, ast.unparse(call.func))
        for file, call in calls()
        if ast.unparse(call.func).split(".")[-1] in BEHIND_THE_DOOR or ast.unparse(call.func) in PICKLES
    }
    assert {file for file, _ in found} == {DOOR}
    assert {name for _, name in found} == {
        "AutoModelForCausalLM.from_pretrained", "AutoTokenizer.from_pretrained", "config_class.from_pretrained",
        "peft_class.from_pretrained", "safe_open", "stock_class.from_pretrained", "torch.load",
    }  # fmt: skip


def test_no_loader_is_told_to_run_code() -> None:
    told = [
        (file, ast.unparse(keyword))
        for file, call in calls()
        for keyword in call.keywords
        if keyword.arg in NEVER_TRUE and ast.unparse(keyword.value) != "False"
    ]
    assert told == []
    source = (REPO / "ligo" / DOOR).read_text(encoding="utf-8")
    assert source.count("torch.load(") == source.count("weights_only=True, mmap=") == 1
    assert '"trust_remote_code": False' in source and source.count("**_OURS_ALONE") == 3


def test_yaml_is_read_without_objects_of_python() -> None:
    found = [
        call
        for _, call in calls()
        if ast.unparse(call.func) in ("yaml.load", "yaml.full_load", "yaml.unsafe_load")
    ]
    assert {ast.unparse(call) for call in found} == {
        "yaml.load(path.read_text(encoding='utf-8'), _SafeLoader)"
    }
