"""ROUGE-L without comparing everything with everything decides as the rouge-score package does."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ligo.instruction.rouge import Match, RougeIndex, tokens_of
from ligo.instruction.seeds import read_seeds

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
absl_logging = pytest.importorskip("absl.logging")
# rouge-score's logger holds what pytest puts in place of stderr, and would close it when Hydra sets logging up anew
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__
SCORER = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
WORDS = st.lists(
    st.sampled_from(["a", "b", "c", "d", "e", "the", "of", "İx", "K9", "don't", "x-y", "ß", "12"]),
    max_size=24,
)


def theirs(one: str, other: str) -> float:
    return float(SCORER.score(one, other)["rougeL"].fmeasure)


def most_alike_of_all(texts: list[str], text: str, limit: float) -> Match | None:
    """By comparing with every one."""
    scores = [theirs(text, known) for known in texts]
    best = max(scores, default=0.0)
    return Match(scores.index(best), best) if best > limit else None


def changed(text: str, draw: random.Random) -> str:
    """Some words replaced, dropped, doubled or swapped."""
    words = text.split()
    for _ in range(draw.randint(0, max(1, len(words) // 3))):
        at = draw.randrange(len(words))
        kind = draw.randrange(4)
        if kind == 0:
            words[at] = draw.choice(("the", "a", "word", words[0]))
        elif kind == 1 and len(words) > 1:
            del words[at]
        elif kind == 2:
            words.insert(at, words[at])
        else:
            other = draw.randrange(len(words))
            words[at], words[other] = words[other], words[at]
    return " ".join(words)


def test_2000_pairs_near_the_limit_have_the_very_same_score_and_verdict() -> None:
    draw, texts = random.Random(0), [task.instruction for task in read_seeds(None)]
    verdicts = []
    for _ in range(2000):
        one = draw.choice(texts)
        other = changed(one, draw)
        index = RougeIndex(0.7)
        index.add(one)
        match, score = index.most_alike(other), theirs(one, other)
        assert match == (Match(0, score) if score > 0.7 else None), (one, other)
        verdicts.append(match is not None)
    assert 400 < sum(verdicts) < 1900  # both verdicts are tried


@pytest.mark.parametrize("length", [10, 20, 30, 40, 70, 100])
def test_texts_at_the_very_limit_round_as_theirs(length: int) -> None:
    """2 lcs / (m + n) is 0.7 or next to it, where the last bit of a float decides."""
    words, at_limit = [f"w{i}" for i in range(length)], 0
    for same in range(1, length + 1):
        for other_length in {same, 20 * same // 7 - length, 20 * same // 7 - length + 1}:
            if other_length < same:
                continue
            other = " ".join([*words[:same], *(f"x{i}" for i in range(other_length - same))])
            index = RougeIndex(0.7)
            index.add(" ".join(words))
            assert (index.most_alike(other) is not None) == (theirs(other, " ".join(words)) > 0.7)
            at_limit += 20 * same == 7 * (length + other_length)
    assert at_limit


@given(st.lists(WORDS, max_size=6), WORDS, st.sampled_from([0.0, 0.5, 2 / 3, 0.7, 0.8, 1.0]))
def test_the_index_finds_what_comparing_with_all_finds(
    texts: list[list[str]], text: list[str], limit: float
) -> None:
    index, known = RougeIndex(limit), [" ".join(words) for words in texts]
    for one in known:
        index.add(one)
    assert index.most_alike(" ".join(text)) == most_alike_of_all(known, " ".join(text), limit)


@given(st.text(max_size=40))
def test_tokens_are_theirs(text: str) -> None:
    from rouge_score.tokenize import tokenize

    assert tokens_of(text) == tokenize(text, None)


def test_long_texts_too() -> None:
    """Above 64 tokens the comparison works on several machine words."""
    draw = random.Random(1)
    for _ in range(60):
        one = " ".join(draw.choices("abcdefgh", k=draw.randint(60, 200)))
        other = changed(one, draw)
        index = RougeIndex(0.0)
        index.add(one)
        assert index.most_alike(other) == Match(0, theirs(one, other))
