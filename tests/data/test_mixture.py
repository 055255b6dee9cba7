"""Several sources: windows by weight, epochs by source, evaluation by source; what cannot be is refused first."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ligo.core.errors import ConfigError, DataError
from ligo.data.config import DataConfig, SourceConfig, check
from ligo.data.corpus import Corpus, TokenStream
from ligo.data.loader import Batches, check_budget, validation_batches, validation_by_source
from ligo.data.mixture import Mixture, all_documents, prepare_text
from ligo.data.prefetch import prefetched
from tests.data.character_tokenizer import CharacterTokenizer

LENGTH = 8
WEIGHTS = {"big": Fraction(6, 10), "middle": Fraction(3, 10), "little": Fraction(1, 10)}


def mixture() -> Mixture:
    """Windows of `big` begin with 0, 8, ..., those of `middle` at 10,000, of `little` at 20,000."""

    def corpus(name: str, first: int, windows: int) -> Corpus:
        streams = [TokenStream.of(first + np.arange(LENGTH * n + 1)) for n in (windows, 40)]
        return Corpus(*streams, fingerprint=name, name=name, num_documents=1, bytes_per_token=1.0)

    sizes = {"big": (0, 100), "middle": (10_000, 20), "little": (20_000, 5)}
    return Mixture("three", {name: corpus(name, *size) for name, size in sizes.items()}, WEIGHTS)


def drawn(data: Batches, steps: int) -> np.ndarray:
    """The first token of every window of the first steps."""
    return np.concatenate([data[step][:, 0] for step in range(steps)])


def test_windows_come_from_each_source_by_its_weight_at_any_step() -> None:
    data = Batches(mixture(), LENGTH, 7, seed=3)
    source = drawn(data, 60) // 10_000
    shares = np.cumsum(source[:, None] == np.arange(3), axis=0)
    wanted = np.arange(1, len(source) + 1)[:, None] * np.array([0.6, 0.3, 0.1])
    assert np.abs(shares - wanted).max() < 1
    assert source.tolist() == np.concatenate([data.sources(step) for step in range(60)]).tolist()
    assert data.source_names == ["big", "middle", "little"]


def test_each_source_is_gone_through_window_by_window_in_epochs_of_its_own() -> None:
    data = Batches(mixture(), LENGTH, 10, seed=3)
    starts = drawn(data, 100)
    for number, (name, count) in enumerate({"big": 100, "middle": 20, "little": 5}.items()):
        mine = (starts[starts // 10_000 == number] % 10_000) // LENGTH
        epochs = mine[: len(mine) // count * count].reshape(-1, count)
        assert len(epochs) == int(1000 * WEIGHTS[name]) // count
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
    assert data.epochs(100) == {"big": 6.0, "middle": 15.0, "little": 20.0}
    assert data.epochs(1) == {"big": 0.06, "middle": 0.15, "little": 0.2}


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    data = Batches(mixture(), LENGTH, 7, seed=3)
    later = data[10**9]
    assert np.array_equal(Batches(mixture(), LENGTH, 7, seed=3)[10**9], later)
    assert not np.array_equal(Batches(mixture(), LENGTH, 7, seed=4)[10**9], later)
    one_by_one = Batches(mixture(), LENGTH, 1, seed=3)
    assert np.array_equal(np.concatenate([one_by_one[7 * 5 + row] for row in range(7)]), data[5])


def test_prefetched_batches_are_the_same_in_any_order_of_asking() -> None:
    data = Batches(mixture(), LENGTH, 7, seed=3)
    with prefetched(data) as ahead:
        for step in (0, 1, 2, 9, 10, 3, 3, 4):
            assert np.array_equal(ahead[step], data[step])


def test_what_goes_wrong_ahead_is_raised_where_it_is_asked_for() -> None:
    class Ends:
        def __getitem__(self, step: int) -> np.ndarray:
            if step > 1:
                raise DataError("the shard x is damaged")
            return np.array([[step]])

    with prefetched(Ends()) as ahead:
        assert [ahead[step].item() for step in (0, 1)] == [0, 1]
        with pytest.raises(DataError, match="the shard x is damaged"):
            ahead[2]


def test_evaluation_is_by_source_and_in_all_by_weight() -> None:
    by_source = validation_by_source(mixture(), LENGTH, 4, 30 * LENGTH)
    windows = {name: np.concatenate(batches) for name, batches in by_source.items()}
    assert {name: len(rows) for name, rows in windows.items()} == {"big": 18, "middle": 9, "little": 3}
    for rows in windows.values():
        assert len(np.unique(rows[:, 0])) == len(rows)
    whole = validation_batches(mixture(), LENGTH, 4, 30 * LENGTH)
    assert np.array_equal(np.concatenate(whole), np.concatenate(list(windows.values())))
    few = validation_by_source(mixture(), LENGTH, 4, LENGTH)
    assert [len(np.concatenate(batches)) for batches in few.values()] == [1, 1, 1]


# Sources that end


def test_a_source_that_ends_is_repeated_and_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    data = DataConfig(sequence_length=LENGTH)
    check_budget(mixture(), data, 50)
    assert capsys.readouterr().out == "epochs: big 0.30, middle 0.75, little 1.00\n"
    check_budget(mixture(), data, 100)
    assert capsys.readouterr().out == (
        "epochs: big 0.60, middle 1.50, little 2.00; middle, little will be repeated, in a new order each time\n"
    )
    check_budget(mixture().sources["big"], data, 100)
    assert capsys.readouterr().out == ""
    check_budget(mixture().sources["big"], data, 101)
    assert "epochs: big 1.01; big will be repeated" in capsys.readouterr().out


def test_a_source_that_ends_is_refused_where_it_may_not_be_repeated() -> None:
    data = DataConfig(sequence_length=LENGTH, when_exhausted="stop")
    check_budget(mixture(), data, 50)
    with pytest.raises(DataError) as caught:
        check_budget(mixture(), data, 100)
    assert "the data 'little' ends after 50 % of the run, which would go through it 2 times" in str(
        caught.value
    )
    assert "Try: train.max_tokens=400, or data.when_exhausted=repeat" in str(caught.value)


# From text


def written(folder: Path, name: str, count: int, key: str = "text") -> str:
    path = folder / f"{name}.jsonl"
    path.write_text(
        "".join(json.dumps({key: f"{name} story {'very ' * (i % 5)}end"}) + "\n" for i in range(count))
    )
    return str(path)


def config(folder: Path, **sources: dict[str, Any]) -> DataConfig:
    made = {name: SourceConfig(**source) for name, source in sources.items()}
    return DataConfig(name="mix", sources=made, sequence_length=LENGTH, cache_dir=str(folder / "cache"))


def test_sources_are_read_with_options_of_their_own(tmp_path: Path) -> None:
    data = config(
        tmp_path,
        a={"path": written(tmp_path, "a", 60), "weight": 75},
        b={"path": written(tmp_path, "b", 80, key="body"), "weight": 25, "text_key": "body"},
    )
    made = prepare_text(data, CharacterTokenizer(), vocab_size=28)
    assert isinstance(made, Mixture)
    assert made.weights == {"a": Fraction(3, 4), "b": Fraction(1, 4)}
    assert [corpus.num_documents for corpus in made.sources.values()] == [60, 80]
    assert len(list(all_documents(data))) == 140
    again = prepare_text(data, CharacterTokenizer(), vocab_size=28)
    assert again.fingerprint == made.fingerprint
    data.sources["a"].weight, data.sources["b"].weight = 50, 50
    assert prepare_text(data, CharacterTokenizer(), vocab_size=28).fingerprint != made.fingerprint


def test_a_source_that_cannot_be_read_is_named_by_its_option(tmp_path: Path) -> None:
    good = {"path": written(tmp_path, "a", 60), "weight": 0.5}
    missing = config(tmp_path, a=good, b={"path": str(tmp_path / "aa.jsonl"), "weight": 0.5})
    with pytest.raises(
        DataError, match=r"aa.jsonl does not exist.\n  Try: data\.sources\.b\.path=.*a\.jsonl"
    ):
        prepare_text(missing, CharacterTokenizer(), vocab_size=28)
    other_key = config(tmp_path, a=good, b={"path": written(tmp_path, "b", 9, key="body"), "weight": 0.5})
    with pytest.raises(DataError, match=r"no key 'text'(.|\n)*Try: data\.sources\.b\.text_key="):
        prepare_text(other_key, CharacterTokenizer(), vocab_size=28)
    small = config(tmp_path, a=good, c={"path": written(tmp_path, "c", 1), "weight": 0.5})
    with pytest.raises(DataError, match="too little validation text in data 'c'"):
        prepare_text(small, CharacterTokenizer(), vocab_size=28)


def test_sources_without_a_path_are_named(tmp_path: Path) -> None:
    data = config(tmp_path, a={"weight": 50}, b={"path": "x", "weight": 30}, c={"weight": 20})
    check(data)  # a plan needs no text
    with pytest.raises(
        ConfigError, match=r"data\.sources\.a\.path is not set, nor are those of c.\n  Try: data\.sources\.a"
    ):
        prepare_text(data, CharacterTokenizer(), vocab_size=28)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((0.5, 0.4), r"sum to 0.5 \+ 0.4 = 0.9, and must sum to 1 \(or 100\)(.|\n)*s0: 0.5556, s1: 0.4444"),
        ((67, 34), r"67 \+ 34 = 101"),
        ((1.5, -0.5), r"data.sources.s1.weight=-0.5 must be at least 1e-05"),
        ((1.0, None), r"data.sources.s1 has no weight"),
        ((float("nan"), 1.0), "data.sources.s0.weight=nan must be"),
    ],
)
def test_weights_that_are_no_mixture_are_refused(weights: tuple[Any, ...], words: str) -> None:
    sources = {f"s{i}": SourceConfig(path="x", weight=weight) for i, weight in enumerate(weights)}
    with pytest.raises(ConfigError, match=words):
        check(DataConfig(sources=sources))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attend": "withn"}, "data.attend=withn is not one of across, within.\n  Try: data.attend=within"),
        ({"when_exhausted": "halt"}, "is not one of repeat, stop"),
        ({"augment": ["flop"]}, "data.augment=flop is not one of flip, crop.\n  Try: data.augment=flip"),
        ({"num_workers": 0}, "data.num_workers=0 must be at least 1"),
        ({"path": "x", "sources": {"a": SourceConfig(path="y", weight=1)}}, "and data.path=x or"),
    ],
)
def test_options_that_are_no_choice_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(DataConfig(**options))
