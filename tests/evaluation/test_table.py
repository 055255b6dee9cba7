"""Rows as a table: exactly this text."""

from __future__ import annotations

from ligo.evaluation.registry import Findings, Row
from ligo.evaluation.table import markdown

ROWS = [
    Row(model="small", task="wiki", metric="perplexity", value=1234.5, count=1),
    Row(model="small", task="boolq", metric="acc", value=0.5, standard_error=0.01, count=3270),
    Row(model="grown", task="boolq", metric="acc", value=0.625, standard_error=0.0123, count=3270),
    Row(model="grown", task="small vs grown", metric="score", value=0.6, interval=(0.5, 0.7), count=80),
]
TABLE = """\
| task           | metric     |     n |           small |                   grown |
| -------------- | ---------- | ----: | --------------: | ----------------------: |
| wiki           | perplexity |     1 |           1,234 |                         |
| boolq          | acc        | 3,270 | 0.5000 ± 0.0100 |         0.6250 ± 0.0123 |
| small vs grown | score      |    80 |                 | 0.6000 [0.5000, 0.7000] |
"""


def test_a_line_for_each_task_and_metric_and_a_column_for_each_model() -> None:
    assert markdown(ROWS) == TABLE


def test_the_narrowest_column_still_has_a_rule_that_markdown_reads() -> None:
    assert markdown(ROWS[:1]).splitlines()[1].split("|")[3] == " --: "


def test_what_is_kept_on_the_disk_is_what_was_found() -> None:
    import json
    from dataclasses import asdict

    found = Findings(rows=ROWS, flops=None, details={"documents": 3})
    assert Findings.from_json(json.loads(json.dumps(asdict(found)))) == found
