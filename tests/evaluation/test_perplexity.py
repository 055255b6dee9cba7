"""Perplexity and bits per byte: figures made by hand, a plain loop of transformers, and lm-evaluation-harness."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ligo.core.errors import NumericsError
from ligo.evaluation.causal import token_ids
from ligo.evaluation.models import ComputeConfig, Model, ModelConfig
from ligo.evaluation.perplexity import TextLoss, ratio, score, windows
from tests.evaluation.checkpoints import (
    WINDOW,
    character_tokenizer,
    figures,
    random_checkpoint,
    run,
    unigram_checkpoint,
)

TEXTS = [
    "a cat sat on a mat, and the mat was red.",
    "b",
    "It rained.\n" * 11,
    "0123456789 ABCDEFGHIJ " * 3,
]
EXACT = 1e-9
"""float64 over a few hundred tokens of about 5 nats each."""
SINGLE = 1e-5
"""transformers reckons its own losses in float32, whatever the model; a dozen tokens of about 5 nats."""


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("random"))


def opened(folder: Path) -> Model:
    return Model.open("it", ModelConfig(path=str(folder)), ComputeConfig(device="cpu"))


@given(st.integers(2, 300), st.integers(1, 40), st.data())
def test_every_token_is_scored_once_with_as_much_before_it_as_promised(
    tokens: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    guessed = []
    for part in windows(tokens, window, stride):
        assert part.end - part.start - 1 <= window
        for place in range(part.end - part.scored, part.end):
            guessed.append(place)
            assert place - part.start >= min(place, window - stride + 1)
    assert guessed == list(range(1, tokens))


def test_bits_per_byte_of_a_known_model_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = unigram_checkpoint(tmp_path / "known", {"a": 0.5, "b": 0.25, "c": 0.25})
    (tmp_path / "text.txt").write_text("aab<|endoftext|>abca")
    code = run(
        f"models.known.path={known}", f"evaluation.path={tmp_path / 'text.txt'}", f"run.dir={tmp_path / 'run'}"
    )  # fmt: skip
    assert code == 0
    found = figures(tmp_path / "run")
    # aab: 1 + 1 + 2 bits in 3 bytes; abca: 1 + 2 + 2 + 1 bits in 4
    assert found["known", "text", "bits_per_byte"] == pytest.approx(10 / 7, abs=EXACT)
    assert found["known", "text", "perplexity"] == pytest.approx(2 ** (10 / 7), abs=EXACT)
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert record["models"]["known"]["details"] == {
        "documents": 2, "tokens": 7, "bytes": 7, "unknown_tokens": 0, "window": WINDOW, "stride": WINDOW // 2
    }  # fmt: skip
    bits = next(row for row in record["rows"] if row["metric"] == "bits_per_byte")
    assert bits["count"] == 2
    residuals = [4 - 3 * 10 / 7, 6 - 4 * 10 / 7]
    assert bits["standard_error"] == pytest.approx(
        math.sqrt(2 * sum(each**2 for each in residuals)) / 7, abs=EXACT
    )
    table = (tmp_path / "run" / "table.md").read_text()
    assert table in capsys.readouterr().out and "bits_per_byte" in table and "1.4286" in table


def test_tokens_of_several_bytes_count_as_several(tmp_path: Path) -> None:
    loss = TextLoss(np.array([math.log(8)]), np.array([1]), np.array([len("é".encode())]))
    by_metric = {row.metric: row for row in loss.rows("it", "text")}
    assert by_metric["perplexity"].value == pytest.approx(8) and by_metric[
        "bits_per_byte"
    ].value == pytest.approx(1.5)
    assert by_metric["perplexity"].standard_error is None  # of one document


@pytest.mark.parametrize("stride", [1, 7, WINDOW])
def test_equal_to_a_plain_loop_of_transformers(random_folder: Path, stride: int) -> None:
    """One token at a time, by itself, without batches and padding."""
    model = opened(random_folder)
    loaded = model.load()
    texts = token_ids(model, TEXTS)
    nats = score(loaded, texts, window=WINDOW, stride=stride, batch_tokens=3 * WINDOW)
    for ids, found in zip(texts, nats, strict=True):
        expected = 0.0
        for part in windows(len(ids), WINDOW, stride):
            for place in range(part.end - part.scored, part.end):
                with torch.no_grad():
                    logits = loaded(torch.tensor([ids[part.start : place]])).logits[0, -1]
                expected -= float(logits.log_softmax(-1)[ids[place]])
        assert found == pytest.approx(expected, abs=EXACT)


def test_a_short_text_has_the_loss_that_transformers_gives(random_folder: Path) -> None:
    model = opened(random_folder)
    loaded = model.load()
    (ids,) = token_ids(model, ["a short one"])
    batch = torch.tensor([ids])
    nats = score(loaded, [ids], window=WINDOW, stride=1, batch_tokens=WINDOW)
    assert nats[0] == pytest.approx(
        float(loaded(batch, labels=batch).loss.detach()) * (len(ids) - 1), abs=SINGLE
    )


def test_equal_to_the_harness_rolling_likelihood(random_folder: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = opened(random_folder)
    loaded = model.load()
    harness = HFLM(pretrained=loaded, tokenizer=model.tokenizer(), max_length=WINDOW, batch_size=3)
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in TEXTS]
    theirs = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    ours = score(loaded, token_ids(model, TEXTS), window=WINDOW, stride=WINDOW, batch_tokens=2 * WINDOW)
    assert np.allclose(-ours, theirs, rtol=0, atol=EXACT)


def test_a_tokenizer_that_begins_texts_begins_them_once(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    folder = random_checkpoint(tmp_path / "plain")
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "~"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="~ $A", special_tokens=[("~", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    (ids,) = token_ids(opened(folder), ["ab"])
    assert ids == [tokenizer.bos_token_id, *character_tokenizer()("ab")["input_ids"]]


def test_flops_are_those_of_the_formula(random_folder: Path, tmp_path: Path) -> None:
    from ligo.accounting.flops import model_flops

    (tmp_path / "text.txt").write_text("x" * WINDOW)
    arguments = [f"models.it.path={random_folder}", f"evaluation.path={tmp_path / 'text.txt'}"]
    assert run(*arguments, f"run.dir={tmp_path / 'run'}") == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["models"]["it"]
    family = opened(random_folder).family()
    assert family is not None
    assert found["evaluation_flops"] == WINDOW * model_flops(family, WINDOW).forward


def test_several_models_stand_side_by_side_and_an_adapter_beside_its_base(
    random_folder: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        opened(random_folder).load(), peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    character_tokenizer().save_pretrained(tmp_path / "merged")
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(TEXTS))
    code = run(
        f"models.base.path={random_folder}",
        f"models.adapter.path={tmp_path / 'adapter'}",
        f"models.adapter.base={random_folder}",
        f"models.merged.path={tmp_path / 'merged'}",
        f"evaluation.path={tmp_path / 'text.txt'}",
        f"run.dir={tmp_path / 'run'}",
    )
    assert code == 0
    found = figures(tmp_path / "run")
    bits = {name: found[name, "text", "bits_per_byte"] for name in ("base", "adapter", "merged")}
    assert bits["adapter"] == pytest.approx(bits["merged"], abs=1e-6)  # PEFT keeps adapters in float32
    assert abs(bits["adapter"] - bits["base"]) > 0.1
    header = (tmp_path / "run" / "table.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "task", "metric", "n", "base", "adapter", "merged"
    ]  # fmt: skip


def test_a_second_start_computes_nothing_again(
    random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("some text")
    arguments = [
        f"models.it.path={random_folder}", f"evaluation.path={tmp_path / 'text.txt'}", f"run.dir={tmp_path / 'run'}"
    ]  # fmt: skip
    assert run(*arguments) == 0
    before = (tmp_path / "run" / "table.md").read_bytes()
    monkeypatch.setattr(Model, "load", lambda self: pytest.fail("the model was read again"))
    assert run(*arguments) == 0
    assert (tmp_path / "run" / "table.md").read_bytes() == before


def test_the_error_of_a_ratio_is_that_of_many_samples() -> None:
    draw = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        sizes = draw.integers(5, 50, size=400)
        return sizes * 2.0 + draw.normal(size=400) * np.sqrt(sizes), sizes

    drawn = [ratio(*sample()) for _ in range(400)]
    errors = [error for _, error in drawn if error is not None]
    assert np.mean(errors) == pytest.approx(np.std([value for value, _ in drawn]), rel=0.1)
    assert ratio(np.array([3.0]), np.array([2])) == (1.5, None)


def test_losses_that_are_not_finite_are_refused(random_folder: Path) -> None:
    loaded = opened(random_folder).load()
    with torch.no_grad():
        loaded.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="1 of 1 documents have a loss that is not finite"):
        score(loaded, [[0, 1, 2]], window=4, stride=4, batch_tokens=4)


def test_a_real_model_on_real_text_beats_the_frequencies_of_characters(
    stories260k: Path, tinystories: Path, tmp_path: Path
) -> None:
    import gzip

    with gzip.open(tinystories / "valid.txt.gz", "rt", encoding="utf-8") as file:
        stories = file.read().split("<|endoftext|>")[:8]
    stories = [story.strip() for story in stories]
    (tmp_path / "stories.txt").write_text("<|endoftext|>".join(stories), encoding="utf-8")
    arguments = [
        f"models.it.path={stories260k}",
        f"evaluation.path={tmp_path / 'stories.txt'}",
        "compute.device=cpu",
    ]
    assert run(*arguments, f"run.dir={tmp_path / 'run'}", "evaluation.window=256") == 0
    text = "".join(stories)
    shares = np.array([text.count(character) for character in set(text)]) / len(text)
    bits = figures(tmp_path / "run")["it", "text", "bits_per_byte"]
    assert 0.5 < bits < 0.5 * float(-(shares * np.log2(shares)).sum())
