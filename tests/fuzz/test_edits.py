"""A sample of what is typed wrong, and of shapes that may or may not be grown; all of them with `-m faults` (tests.faults.trust)."""

from __future__ import annotations

from pathlib import Path

from tests.faults.tally import Tally
from tests.fuzz.edits import config_edits
from tests.fuzz.lattice import shape_lattice


def test_whatever_is_typed_the_answer_is_words_and_unknown_keys_get_the_nearest(tmp_path: Path) -> None:
    tally = Tally(tmp_path)
    config_edits(tally, 60, seed=1)
    assert tally.good == 60, tally.wrong
    assert tally.notes["unknown keys"] == tally.notes["named with the nearest"] > 10


def test_a_random_pair_is_grown_and_right_or_refused_with_the_rule(tmp_path: Path) -> None:
    tally = Tally(tmp_path)
    shape_lattice(tally, 60, seed=1)
    assert tally.good == 60, tally.wrong
    assert min(tally.notes[verdict] for verdict in ("exact", "approximate", "refused")) > 0, tally.notes
