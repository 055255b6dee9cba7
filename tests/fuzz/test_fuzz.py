"""Every target on its corpus, and on inputs that Hypothesis makes of it; a campaign with atheris with `-m trust`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import REPO
from tests.fuzz.targets import TARGETS, check_of, corpus

EXAMPLES, CAMPAIGN_S = 100, 60
SETTINGS = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_of_a_target_holds(target: str) -> None:
    inputs = corpus(target)
    assert len(inputs) > 2
    for data in inputs:
        check_of(target)(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """What comes before JSON, the JSON, and what comes after; a safetensors file begins with the length of its JSON."""
    if data[8:9] != b"{" or data[:1] == b"{":
        return b"", data, b""
    end = 8 + int.from_bytes(data[:8], "little")
    return data[:8], data[8:end], data[end:]


@st.composite
def _like(draw: st.DrawFn, inputs: list[bytes]) -> bytes:
    """One of some inputs with a stretch replaced, or a value of its JSON."""
    data = draw(st.sampled_from(inputs))
    head, body, tail = _parts(data)
    if draw(st.booleans()):
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and value:
            value[draw(st.sampled_from(sorted(value)) | st.text(max_size=8))] = draw(_json)
            body = json.dumps(value).encode()
            return (len(body).to_bytes(8, "little") if head else b"") + body + tail
    first = draw(st.integers(0, len(data)))
    last = draw(st.integers(first, min(len(data), first + 16)))
    return data[:first] + draw(st.binary(max_size=16)) + data[last:]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_holds_on_inputs_like_its_corpus(target: str) -> None:
    check, inputs = check_of(target), corpus(target)

    @SETTINGS
    @given(data=st.binary(max_size=64) | _like(inputs))
    def holds(data: bytes) -> None:
        check(data)

    holds()


@pytest.mark.trust
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)"
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_holds_in_a_campaign_with_coverage(target: str, tmp_path: Any) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        target,
        f"-max_total_time={CAMPAIGN_S}",
        f"-artifact_prefix={tmp_path}/",
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
