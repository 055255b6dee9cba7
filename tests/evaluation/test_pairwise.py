"""Answers judged in pairs: what verdicts come to, by hand; an endpoint as judge, its failures, and its recording."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ligo.core.errors import DataError
from ligo.evaluation.questions import Question, read_questions
from ligo.evaluation.verdicts import Comparison, Pair, Verdict, comparisons, read_verdict
from tests.conftest import SHARED_DATA
from tests.evaluation.checkpoints import figures, random_checkpoint, run
from tests.instruction.test_openai import SOON, Answer, Endpoint, answer

QUESTIONS = [Question(str(number), "generic" if number < 3 else "maths", f"Question {number}?") for number in range(5)]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Both are fine.\n[[A]]", "first"),
        ("[[B]]", "second"),
        ("On balance:\n\n[[C]]\n", "tie"),
        ("[[A]] ... so, again, [[A]]", "first"),
        ("[[A]] or perhaps [[B]]", None),
        ("Answer A is better.", None),
        ("[A]", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_and_never_guessed(text: str, verdict: Verdict | None) -> None:
    assert read_verdict(text) == verdict


def judged(*verdicts: tuple[Verdict | None, Verdict | None]) -> Pair:
    """For each question the verdict with `one` shown first, and that with `other` shown first."""
    found = [
        (Comparison(question, first, second), verdict)
        for question, both in zip(QUESTIONS, verdicts, strict=False)
        for (first, second), verdict in zip((("one", "other"), ("other", "one")), both, strict=True)
    ]
    return Pair("one", "other", found)


def test_figures_of_a_pair_by_hand() -> None:
    pair = judged(("first", "second"), ("first", "first"), ("tie", "tie"), ("second", None), (None, None))
    assert pair.scores("one") == {"0": 1.0, "1": 0.5, "2": 0.5, "3": 0.0}
    found = {(row.model, row.metric): row for row in pair.rows(seed=0)}
    expected = {
        ("one", "score"): (2.0 / 4, 4), ("other", "score"): (2.0 / 4, 4),
        ("one", "wins"): (3 / 7, 7), ("other", "wins"): (2 / 7, 7),
        ("one", "ties"): (2 / 7, 7), ("one", "agree"): (2 / 3, 3),
        ("one", "first_preferred"): ((0.5 + 1 + 0.5 + 0) / 4, 4), ("other", "unread"): (3 / 10, 10),
    }  # fmt: skip
    for key, (value, count) in expected.items():
        assert (found[key].value, found[key].count) == (pytest.approx(value), count), key


def test_a_judge_that_looks_at_places_only_is_found_out() -> None:
    pair = judged(*[("first", "first")] * 5)
    found = {row.metric: row for row in pair.rows(seed=0) if row.model == "one"}
    assert found["first_preferred"].value == 1.0 and found["agree"].value == 0.0
    assert found["score"].value == 0.5 and found["score"].interval == (0.5, 0.5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(["first", "second", "tie", None])] * 2), min_size=5, max_size=5))
def test_scores_of_both_add_up_to_one_and_names_do_not_matter(verdicts: list[tuple[Any, Any]]) -> None:
    pair = judged(*verdicts)
    one, other = pair.scores("one"), pair.scores("other")
    assert all(one[question] + other[question] == 1 for question in one)
    renamed = Pair("other", "one", pair.verdicts)
    key = {(row.model, row.metric): (row.value, row.count) for row in pair.rows(seed=0)}
    assert key == {(row.model, row.metric): (row.value, row.count) for row in renamed.rows(seed=0)}


def test_intervals_are_functions_of_the_seed() -> None:
    pair = judged(
        ("first", "second"), ("second", "second"), ("tie", "first"), ("first", "tie"), ("first", "second")
    )
    assert pair.rows(seed=3) == pair.rows(seed=3)
    score = next(row for row in pair.rows(seed=3) if row.metric == "score")
    assert score.interval is not None and score.interval[0] <= score.value <= score.interval[1]


def test_all_pairs_on_all_questions_in_both_orders() -> None:
    made = comparisons(["a", "b", "c"], QUESTIONS)
    assert len(made) == len(set(made)) == 3 * 5 * 2
    request = Comparison(QUESTIONS[0], "b", "a").request(7, {"a": {"0": "from a"}, "b": {"0": "from b"}})
    assert request.number == 7
    assert (
        request.prompt.index("Question 0?") < request.prompt.index("from b") < request.prompt.index("from a")
    )


def test_the_80_questions_are_read() -> None:
    path = SHARED_DATA / "vicuna-questions" / "vicuna_questions.jsonl"
    if not path.is_file():
        pytest.skip("the Vicuna questions are not beside this checkout (../shared/data)")
    questions = read_questions(str(path))
    assert len(questions) == 80 and len({question.category for question in questions}) == 9
    assert questions[0] == Question("1", "generic", "How can I improve my time management skills?")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "holds no question"),
        ('{"question_id": 1, "turns": "x"}\n', "line 1: 'turns' is no list of texts"),
        ('{"question_id": 1, "turns": ["x", "y"]}\n', "2 turns"),
        ('{"question_id": 1, "turns": [" "]}\n', "1 turns, the first of 0 characters"),
        ('{"question_id": 1, "turns": ["x"]}\n' * 2, "the question_id 1 twice"),
        ("x\n", "line 1: not JSON"),
    ],
)
def test_files_that_are_no_questions_are_refused(tmp_path: Path, lines: str, words: str) -> None:
    (tmp_path / "questions.jsonl").write_text(lines)
    with pytest.raises(DataError, match=words):
        read_questions(str(tmp_path / "questions.jsonl"))


# the command


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [
        f"models.{name}.path={random_checkpoint(folder / name, seed, max_position_embeddings=64)}"
        for seed, name in enumerate(("one", "other"))
    ]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    records = [
        {"question_id": number, "category": ("generic", "maths")[number % 2], "turns": [f"What is {number}?"]}
        for number in range(4)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Endpoint]]:
    monkeypatch.setenv("JUDGE_KEY", "not-a-secret")
    running = []

    def start(script: Callable[[dict[str, Any], int], Answer]) -> Endpoint:
        endpoint = Endpoint(script)
        threading.Thread(target=endpoint.serve_forever, args=(0.01,), daemon=True).start()
        running.append(endpoint)
        return endpoint

    yield start
    for endpoint in running:
        endpoint.shutdown()
        endpoint.server_close()


def compare(models: list[str], questions: Path, folder: Path, *more: str) -> int:
    return run(
        *models, "evaluation=pairwise", f"evaluation.questions={questions}", f"run.dir={folder}", "compute.device=cpu",
        "evaluation.answers.prompt=plain", "evaluation.answers.max_tokens=12", "evaluation.answers.batch_size=2", *more,
    )  # fmt: skip


def by_endpoint(endpoint: Endpoint, *more: str) -> list[str]:
    return [
        "evaluation.judge.model=judge", f"evaluation.judge.base_url={endpoint.url}",
        "evaluation.judge.key_variable=JUDGE_KEY", "evaluation.judge.max_retries=1", "evaluation.judge.concurrency=2", *more,
    ]  # fmt: skip


def longer_is_better(body: dict[str, Any], tries: int) -> Answer:
    first, second = re.findall(r"Answer [AB]:\n=+\n(.*?)\n=+\n", body["messages"][0]["content"], re.DOTALL)
    return answer("[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]")


def test_a_judge_is_asked_once_for_each_pair_and_its_recording_gives_the_same_table(
    models: list[str], questions: Path, tmp_path: Path, serve: Callable[..., Endpoint]
) -> None:
    endpoint = serve(longer_is_better)
    prices = ("evaluation.judge.prompt_price=1", "evaluation.judge.completion_price=2")
    assert compare(models, questions, tmp_path / "asked", *by_endpoint(endpoint, *prices)) == 0
    assert len(endpoint.seen) == 8 and endpoint.seen[0]["temperature"] == 0
    record = json.loads((tmp_path / "asked" / "evaluation.json").read_text())
    judge = record["models"]["one"]["details"]["judge"]
    assert judge["tokens"] == {"prompt": 88, "completion": 56}
    assert judge["cost"] == pytest.approx((88 * 1 + 56 * 2) / 1000)
    assert record["models"]["one"]["evaluation_flops"] > 0
    found = figures(tmp_path / "asked")
    assert found["one", "one vs other", "score"] + found["other", "one vs other", "score"] == 1
    assert found["one", "one vs other", "agree"] == 1  # this judge does not look at places
    replay = (
        "evaluation.judge.name=replay",
        f"evaluation.judge.path={tmp_path / 'asked' / 'judgements.jsonl'}",
    )
    for name in ("first", "second"):
        assert compare(models, questions, tmp_path / name, *replay) == 0
        assert (tmp_path / name / "table.md").read_text() == (tmp_path / "asked" / "table.md").read_text()
    assert len(endpoint.seen) == 8


def test_failures_are_retried_then_stop_and_the_same_command_asks_for_the_rest(
    models: list[str], questions: Path, tmp_path: Path, serve: Callable[..., Endpoint], capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    broken = True

    def script(body: dict[str, Any], tries: int) -> Answer:
        if broken and "What is 2?" in body["messages"][0]["content"]:
            return 503, SOON, b'{"error": {"message": "down for repair"}}'
        return longer_is_better(body, tries)

    endpoint = serve(script)
    assert compare(models, questions, tmp_path / "run", *by_endpoint(endpoint)) == 75
    message = capsys.readouterr().err
    assert "does not answer after 2 tries" in message and "the same command, later" in message
    assert (tmp_path / "run" / "STATUS").read_text() == "interrupted\n"
    kept = (tmp_path / "run" / "judgements.jsonl").read_text().count("\n")
    answers = {path.name: path.read_bytes() for path in (tmp_path / "run" / "answers").iterdir()}
    assert 0 < kept < 8 and set(answers) == {"one.jsonl", "other.jsonl"}
    broken = False
    before = len(endpoint.seen)
    assert compare(models, questions, tmp_path / "run", *by_endpoint(endpoint)) == 0
    assert len(endpoint.seen) - before == 8 - kept
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "answers").iterdir()} == answers


def test_what_holds_no_verdict_is_counted(
    models: list[str], questions: Path, tmp_path: Path, serve: Callable[..., Endpoint]
) -> None:
    endpoint = serve(lambda body, tries: answer("I cannot tell."))
    assert compare(models, questions, tmp_path / "run", *by_endpoint(endpoint)) == 0
    found = figures(tmp_path / "run")
    assert found["one", "one vs other", "unread"] == 1 and ("one", "one vs other", "score") not in found


def test_answers_are_generates_own_and_a_cut_file_is_finished_with_the_same(
    models: list[str], questions: Path, tmp_path: Path, serve: Callable[..., Endpoint]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    endpoint = serve(longer_is_better)
    sampled = ("evaluation.answers.temperature=1", "seed=5")
    for name, more in (("likeliest", ()), ("sampled", sampled)):
        assert compare(models, questions, tmp_path / name, *by_endpoint(endpoint, *more)) == 0
        file = tmp_path / name / "answers" / "one.jsonl"
        whole = file.read_bytes()
        cut = tmp_path / f"{name}-cut"
        (cut / "answers").mkdir(parents=True)
        (cut / "answers" / "one.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]) + b'{"half')
        assert compare(models, questions, cut, *by_endpoint(endpoint, *more)) == 0
        assert (cut / "answers" / "one.jsonl").read_bytes() == whole
    folder = models[0].partition("=")[2]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for number, line in enumerate(
        (tmp_path / "likeliest" / "answers" / "one.jsonl").read_text().splitlines()
    ):
        ids = tokenizer(f"What is {number}?", return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
        text = tokenizer.decode(made[ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert json.loads(line)["text"] == text


def test_recordings_that_do_not_fit_are_refused(
    models: list[str], questions: Path, tmp_path: Path, serve: Callable[..., Endpoint], capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    endpoint = serve(longer_is_better)
    assert compare(models, questions, tmp_path / "asked", *by_endpoint(endpoint)) == 0
    lines = (tmp_path / "asked" / "judgements.jsonl").read_text().splitlines(keepends=True)
    recording = tmp_path / "recording.jsonl"
    replay = ("evaluation.judge.name=replay", f"evaluation.judge.path={recording}")
    recording.write_text("".join(line for line in lines if json.loads(line)["request"] != 3))
    assert compare(models, questions, tmp_path / "lacks", *replay) == 3
    assert (
        "lacks 1 of 8 judgements, the first of them on question 1, other shown before one"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "lacks").exists()
    recording.write_text("".join(lines))
    assert compare(models, questions, tmp_path / "others", *replay, "evaluation.answers.max_tokens=5") == 3
    assert "judges other answers to question 0" in capsys.readouterr().err
    assert compare(models[:1], questions, tmp_path / "alone", *replay) == 2
    assert "a pair needs two models, and there is 1" in capsys.readouterr().err


def test_prompts_and_judges_that_cannot_be_are_refused(
    models: list[str], questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, words in (
        (["evaluation.answers.prompt=chat"], "the tokenizer of models.one has no chat template"),
        (["evaluation.answers.prompt=alpaca"], "models.one has 64 positions"),
        (["evaluation.judge.model=null"], "Try: evaluation.judge.model=NAME"),
        (
            ["evaluation.judge.model=x", "evaluation.judge.key_variable=NO_SUCH_KEY"],
            r"\$NO_SUCH_KEY is not set",
        ),
        (["evaluation.judge.name=replay"], "Try: evaluation.judge.path=RUN"),
    ):
        assert compare(models, questions, tmp_path / "run", *more) == 2
        assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_folder_can_be_the_judge(models: list[str], questions: Path, tmp_path: Path) -> None:
    judge = random_checkpoint(tmp_path / "judge", seed=2, max_position_embeddings=4096)
    more = ("evaluation.judge.name=local", f"evaluation.judge.path={judge}", "evaluation.judge.max_tokens=4")
    assert compare(models, questions, tmp_path / "run", *more) == 0
    assert figures(tmp_path / "run")["one", "one vs other", "unread"] == 1  # it babbles
