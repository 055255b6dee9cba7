from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ligo.core.errors import ConfigError, DataError, ResourceError
from ligo.data import corpus as corpus_module
from ligo.data import encode
from ligo.data.bpe import train_tokenizer
from ligo.data.config import DataConfig
from ligo.data.corpus import TokenStream
from ligo.data.encode import encoder
from ligo.data.facts import sha256
from ligo.data.tokenize import prepare
from tests.data.character_tokenizer import CharacterTokenizer

REPO = Path(__file__).parents[2]
SHARED = REPO.parent / "shared" / "data"
STORIES = [f"the story of number {i} and its {'very ' * (i % 7)}long end\n" for i in range(200)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture(scope="module")
def bpe() -> Any:
    return train_tokenizer(STORIES, 300)


@pytest.fixture(scope="module")
def llama_like() -> Any:
    """A tokenizer that begins texts with BOS by itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator(STORIES, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def write(folder: Path, texts: list[str], name: str = "a.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def config(path: str | None, **options: Any) -> DataConfig:
    return DataConfig(path=path, **{"sequence_length": 8, **options})


def cut(stream: TokenStream, mark: int) -> list[list[int]]:
    """The documents of a stream in which `mark` ends each."""
    tokens = np.asarray(stream)
    ends = np.flatnonzero(tokens == mark)
    assert ends[-1] == len(tokens) - 1
    return [part[:-1].tolist() for part in np.split(tokens, ends + 1)[:-1]]


# Tokens


def test_every_document_is_in_one_split_with_eos_after_it(tmp_path: Path, bpe: Any) -> None:
    corpus = prepare(config(write(tmp_path, STORIES)), bpe, vocab_size=300)
    train = [bpe.decode(ids) for ids in cut(corpus.train, bpe.eos_token_id)]
    validation = [bpe.decode(ids) for ids in cut(corpus.validation, bpe.eos_token_id)]
    assert sorted(train + validation) == sorted(STORIES)
    assert train == [story for story in STORIES if story in set(train)]  # order is kept
    characters = sum(map(len, STORIES))
    assert 0.04 < sum(map(len, validation)) / characters <= 0.05
    assert corpus.num_documents == 200
    assert corpus.bytes_per_token == sum(map(len, validation)) / len(corpus.validation)


def test_ids_are_kept_in_as_few_bytes_as_they_need(tmp_path: Path, bpe: Any, cache: Path) -> None:
    corpus = prepare(config(write(tmp_path, STORIES)), bpe, vocab_size=300)
    wide = prepare(config(write(tmp_path, STORIES)), bpe, vocab_size=2**16 + 1)
    assert np.array_equal(wide.train, corpus.train)
    for made, size in ((corpus, 2), (wide, 4)):
        folder = cache / made.fingerprint
        assert (folder / "train-00000.bin").stat().st_size == size * len(made.train)
        assert sorted(file.name for file in folder.iterdir()) == [
            "manifest.json",
            "train-00000.bin",
            "train-00000.idx",
            "validation-00000.bin",
            "validation-00000.idx",
        ]


def test_ids_are_those_of_the_tokenizer_when_it_is_called(tmp_path: Path, bpe: Any, llama_like: Any) -> None:
    for tokenizer in (bpe, llama_like):
        for split in (False, True):
            tokenizer("a", truncation=True, max_length=3, split_special_tokens=split)
            texts = [*STORIES[:20], tokenizer.eos_token + " inside"]
            stock = tokenizer(texts, add_special_tokens=False, split_special_tokens=split)["input_ids"]
            assert encoder(tokenizer)(texts) == stock


def test_bos_before_each_document_where_the_tokenizer_does_so(tmp_path: Path, llama_like: Any) -> None:
    corpus = prepare(config(write(tmp_path, STORIES)), llama_like, vocab_size=60)
    assert np.asarray(corpus.train)[0] == 1
    both = np.concatenate([corpus.train, corpus.validation])
    assert (both == 1).sum() == 200
    assert (both == 2).sum() == 0


def test_cls_and_sep_around_each_document_where_the_tokenizer_puts_them(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(
        STORIES, trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    bert_like = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    corpus = prepare(config(write(tmp_path, STORIES)), bert_like, vocab_size=len(bert_like))
    train = np.asarray(corpus.train)
    assert (train[0], train[-1]) == (1, 2)
    starts, ends = np.flatnonzero(train == 1), np.flatnonzero(train == 2)
    assert (starts[1:] == ends[:-1] + 1).all()
    assert len(starts) + (np.asarray(corpus.validation) == 1).sum() == len(STORIES)


def test_a_tokenizer_for_masked_models_has_a_mask_token() -> None:
    masks = train_tokenizer(STORIES, 300, mask=True)
    assert (masks.mask_token_id, masks.eos_token_id, len(masks)) == (1, 0, 300)
    assert masks.decode(masks("so [MASK]")["input_ids"][-1:]) == "[MASK]"
    assert train_tokenizer(STORIES, 300).mask_token_id is None


def test_bos_ends_documents_when_there_is_no_eos(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer()
    tokenizer.bos_token_id, tokenizer.eos_token_id = 27, None
    corpus = prepare(config(write(tmp_path, STORIES)), tokenizer, vocab_size=28)
    assert np.asarray(corpus.train)[-1] == 27
    assert len(cut(corpus.train, 27)) + len(cut(corpus.validation, 27)) == 200


# The split


def test_few_documents_hold_out_the_tail(tmp_path: Path) -> None:
    text = "".join(f"{'abcdefghij' * (1 + i % 5)}\n" for i in range(3000))
    (tmp_path / "a.txt").write_text(text)
    corpus = prepare(config(str(tmp_path / "a.txt")), CharacterTokenizer(), vocab_size=28)
    (whole,) = CharacterTokenizer()([text.strip("\n")])["input_ids"]
    assert np.concatenate([corpus.train, corpus.validation]).tolist() == [*whole, 27]
    assert np.asarray(corpus.train)[-1] == 26  # the cut is at a line break
    assert 27 not in np.asarray(corpus.train)  # and is no end of a document
    assert abs(len(corpus.validation) / len(whole) - 0.05) < 10_000 / 2 / len(whole) + 0.01
    assert corpus.num_documents == 1


@pytest.mark.parametrize("text", ["abc " * 500, "a" * 2000, "ab\n" * 700])
def test_small_texts_with_and_without_breaks(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    corpus = prepare(config(str(tmp_path / "a.txt")), CharacterTokenizer(), vocab_size=28)
    characters = len(text.strip("\n"))
    assert len(corpus.train) + len(corpus.validation) == characters + 1
    assert 0.02 < len(corpus.validation) / characters < 0.06


def test_one_huge_document_among_many_stays_in_training(tmp_path: Path) -> None:
    for position in range(0, 20, 5):
        texts = ["short text"] * 20
        texts[position] = "long " * 5000
        path = write(tmp_path, texts)
        corpus = prepare(config(path), CharacterTokenizer(), vocab_size=28)
        assert 11 <= len(corpus.validation) < 0.05 * len(corpus.train)


def test_appending_text_keeps_most_of_the_split(tmp_path: Path, bpe: Any) -> None:
    def held_out(texts: list[str]) -> set[str]:
        corpus = prepare(config(write(tmp_path, texts)), bpe, vocab_size=300)
        return {bpe.decode(ids) for ids in cut(corpus.validation, bpe.eos_token_id)}

    before, after = held_out(STORIES[:150]), held_out(STORIES)
    assert len((after & set(STORIES[:150])) - before) <= 2


def test_validation_path(tmp_path: Path) -> None:
    train, other = write(tmp_path, STORIES), write(tmp_path, ["other text"] * 3, "valid.jsonl")
    corpus = prepare(config(train, validation_path=other), CharacterTokenizer(), vocab_size=28)
    assert len(cut(corpus.train, 27)) == 200
    assert len(cut(corpus.validation, 27)) == 3
    assert corpus.num_documents == 203


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder beside the repository")
def test_real_text(tmp_path: Path, bpe: Any) -> None:
    path = str(SHARED / "tinyshakespeare")
    corpus = prepare(config(path, sequence_length=128), bpe, vocab_size=300)
    text = (SHARED / "tinyshakespeare" / "input.txt").read_text()
    tail = bpe.decode(np.asarray(corpus.validation)[:-1])
    assert tail == text.strip("\n")[-len(tail) :]
    assert 0.04 < len(corpus.validation) / len(corpus.train) < 0.06


# The cache


def test_a_second_start_does_not_tokenise_again(tmp_path: Path, cache: Path) -> None:
    path, tokenizer = write(tmp_path, STORIES), CharacterTokenizer()
    first = prepare(config(path), tokenizer, vocab_size=28)
    first_calls, tokenizer.calls = tokenizer.calls, 0
    second = prepare(config(path, name="other", sequence_length=16), tokenizer, vocab_size=28)
    assert (first_calls, tokenizer.calls) == (2, 1)  # each looks once whether texts begin with BOS
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.train, second.train)
    assert len(list(cache.iterdir())) == 1


def test_moved_text_is_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    here, there = write(tmp_path, STORIES), write(tmp_path / "there", STORIES)
    one, two = (prepare(config(path), CharacterTokenizer(), vocab_size=28) for path in (here, there))
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"validation_fraction": 0.1},
        {"text_key": "body"},
        {"group_keys": ["part"]},
        {"document_separator": "---"},
        {"validation_path": "valid"},
    ],
)
def test_options_that_shape_tokens_make_others(tmp_path: Path, changes: dict[str, Any]) -> None:
    records = [{"text": story, "body": story[::-1], "part": i // 2} for i, story in enumerate(STORIES)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    if "validation_path" in changes:
        changes = {"validation_path": str(path)}
    one = prepare(config(str(path)), CharacterTokenizer(), vocab_size=28)
    two = prepare(config(str(path), **changes), CharacterTokenizer(), vocab_size=28)
    assert one.fingerprint != two.fingerprint


def test_changed_text_and_changed_tokenizer_make_others(tmp_path: Path, bpe: Any) -> None:
    one = prepare(config(write(tmp_path, STORIES)), CharacterTokenizer(), vocab_size=28)
    changed = [STORIES[0].replace("story", "storm"), *STORIES[1:]]  # as long as before
    two = prepare(config(write(tmp_path, changed)), CharacterTokenizer(), vocab_size=28)
    three = prepare(config(write(tmp_path, changed)), bpe, vocab_size=300)
    assert len({one.fingerprint, two.fingerprint, three.fingerprint}) == 3
    assert not np.array_equal(one.train, two.train) or not np.array_equal(one.validation, two.validation)


def test_saved_and_loaded_tokenizer_is_the_same(tmp_path: Path, bpe: Any) -> None:
    from transformers import AutoTokenizer

    bpe.save_pretrained(tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    loaded("a", truncation=True, max_length=3)  # leaves its mark on the backend
    path = write(tmp_path, STORIES)
    one, two = (prepare(config(path), tokenizer, vocab_size=300) for tokenizer in (bpe, loaded))
    assert one.fingerprint == two.fingerprint


def test_cache_folder_comes_from_the_option_first(tmp_path: Path) -> None:
    own = config(write(tmp_path, STORIES), cache_dir=str(tmp_path / "own"))
    corpus = prepare(own, CharacterTokenizer(), vocab_size=28)
    assert (tmp_path / "own" / "tokens" / corpus.fingerprint / "manifest.json").is_file()


_PREPARE = """
import os, signal, sys, time
from pathlib import Path
from ligo.data import encode
from ligo.data.config import DataConfig
from ligo.data.tokenize import prepare
from tests.data import character_tokenizer

encode._BATCH_CHARACTERS, encode._SHARD_CHARACTERS, encode._CHARACTERS_PER_WORKER = 500, 1000, 1000
mode, path, workers = sys.argv[1:]

class CharacterTokenizer(character_tokenizer.CharacterTokenizer):
    def __call__(self, text, **options):
        if not isinstance(text, str) and STORY in "".join(text) and mode != "whole":
            Path(f"{path}.{os.getpid()}.began").touch()
            time.sleep(60 if mode == "hang" else 0.5)
        return super().__call__(text, **options)

STORY = "the story of number 150 "
data = DataConfig(path=path, sequence_length=8, num_workers=int(workers))
print(len(prepare(data, CharacterTokenizer(), vocab_size=28).train))
"""


def start(mode: str, path: str, cache: Path, workers: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PREPARE, mode, path, str(workers)],
        env={**os.environ, "PYTHONPATH": str(REPO), "LIGO_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a cache folder, the fingerprint's own folder left out of the names."""
    return {file.name: file.read_bytes() for file in folder.glob("tokens/*/*")}


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_half_way_it_goes_on_from_the_last_shard(tmp_path: Path, workers: int) -> None:
    path = write(tmp_path, STORIES)
    process = start("hang", path, tmp_path / "killed", workers)
    while not list(tmp_path.glob("*.began")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (unfinished,) = (tmp_path / "killed" / "tokens").iterdir()
    assert unfinished.name.startswith(".")  # nothing under the final name
    runs = json.loads((unfinished / "record.json").read_text())
    finished = [unfinished / f"{run['train']['shards'][0]['name']}.bin" for run in runs]
    assert len(finished) > 2
    times = {file: file.stat().st_mtime_ns for file in finished}
    (unfinished / ".record.json.tmp-1").touch()  # as a kill leaves it in the middle of writing
    (finished[0].parent / ".train-00099.bin.tmp-1").touch()

    for cache, count in (("killed", workers), ("uninterrupted", 1)):
        output, errors = start("whole", path, tmp_path / cache, count).communicate(timeout=30)
        assert output, errors
    killed, uninterrupted = contents(tmp_path / "killed"), contents(tmp_path / "uninterrupted")
    assert len(killed) > 10
    assert killed == uninterrupted
    (folder,) = (tmp_path / "killed" / "tokens").iterdir()
    assert all((folder / file.name).stat().st_mtime_ns == time_ns for file, time_ns in times.items())


def test_workers_end_when_the_process_that_they_work_for_is_killed(tmp_path: Path) -> None:
    process = start("hang", write(tmp_path, STORIES), tmp_path / "cache", workers=3)
    while not (began := list(tmp_path.glob("*.began"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    worker = int(began[0].name.split(".")[-2])
    assert worker != process.pid
    process.kill()
    process.communicate()
    for _ in range(100):
        if (
            not Path(f"/proc/{worker}").exists()
            or "Z" in Path(f"/proc/{worker}/stat").read_text().split(") ")[1][:1]
        ):
            return
        time.sleep(0.05)
    pytest.fail(f"process {worker} goes on")


def test_of_processes_that_prepare_at_the_same_time_one_works(tmp_path: Path) -> None:
    path = write(tmp_path, STORIES)
    processes = [start("together", path, tmp_path / "cache") for _ in range(3)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({output.split()[-1] for output, _ in outputs}) == 1
    assert len(list(tmp_path.glob("*.began"))) == 1
    assert "another process is tokenising the same text" in "".join(output for output, _ in outputs)
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 1


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_processes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bpe: Any, workers: int
) -> None:
    monkeypatch.setattr(encode, "_BATCH_CHARACTERS", 300)
    monkeypatch.setattr(encode, "_CHARACTERS_PER_WORKER", 300)
    data = config(write(tmp_path, STORIES), num_workers=workers)
    corpus = prepare(data, bpe, vocab_size=300)
    train = [bpe.decode(ids) for ids in cut(corpus.train, bpe.eos_token_id)]
    assert train == [story for story in STORIES if story in set(train)]
    assert len(train) + len(cut(corpus.validation, bpe.eos_token_id)) == 200


def test_a_worker_that_is_killed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(CharacterTokenizer):
        def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
            if not isinstance(text, str):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(text, **options)

    monkeypatch.setattr(encode, "_CHARACTERS_PER_WORKER", 300)
    with pytest.raises(
        ResourceError, match="one of 4 processes that tokenise was killed(.|\n)*num_workers=2"
    ):
        prepare(config(write(tmp_path, STORIES), num_workers=4), Killed(), vocab_size=28)


def test_error_half_way_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    class Failing(CharacterTokenizer):
        def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().__call__(text, **options)

    with pytest.raises(KeyboardInterrupt):
        prepare(config(write(tmp_path, STORIES)), Failing(), vocab_size=28)
    assert list(cache.iterdir()) == []


DAMAGES = {
    "cut": ("train-00000.bin", "it has 100 bytes, and the manifest says"),
    "missing": ("validation-00000.idx", "No such file"),
    "changed": ("train-00000.bin", "its sha256 is not the one in the manifest"),
    "manifest": ("manifest.json", "it lacks 'train'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named(tmp_path: Path, cache: Path, damage: str) -> None:
    path = write(tmp_path, STORIES)
    folder = cache / prepare(config(path), CharacterTokenizer(), vocab_size=28).fingerprint
    name, words = DAMAGES[damage]
    if damage == "cut":
        os.truncate(folder / name, 100)
    elif damage == "missing":
        (folder / name).unlink()
    elif damage == "changed":
        with open(folder / name, "r+b") as file:
            file.write(b"\x01\x01")
    else:
        (folder / name).write_text("{}")
    with pytest.raises(
        DataError, match=rf"the shard {folder / name} is damaged: {words}(.|\n)*Try: .*rm -r {folder}"
    ):
        prepare(config(path), CharacterTokenizer(), vocab_size=28)


def test_content_is_read_for_its_checksum_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, STORIES)
    folder = cache / prepare(config(path), CharacterTokenizer(), vocab_size=28).fingerprint
    read: list[str] = []
    monkeypatch.setattr(corpus_module, "sha256", lambda file: (read.append(file.name), sha256(file))[1])
    hour_ago = time.time() - 3600
    for file in folder.iterdir():
        os.utime(file, (hour_ago, hour_ago))
    for _ in range(2):
        prepare(config(path), CharacterTokenizer(), vocab_size=28)
    assert sorted(read) == sorted(file.name for file in folder.iterdir() if file.suffix != ".json")
    os.utime(folder / "train-00000.bin", (hour_ago + 1, hour_ago + 1))
    prepare(config(path), CharacterTokenizer(), vocab_size=28)
    assert read[4:] == ["train-00000.bin"]


def test_cache_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = config(write(tmp_path, STORIES), cache_dir=str(tmp_path / "file"))
    with pytest.raises(
        ResourceError, match=r"cannot keep tokens in .*: Not a directory(.|\n)*data\.cache_dir=DIR"
    ):
        prepare(blocked, CharacterTokenizer(), vocab_size=28)


# What cannot be


def test_tokenizer_with_more_ids_than_the_model(tmp_path: Path) -> None:
    path = write(tmp_path, STORIES)
    with pytest.raises(
        DataError, match=r"tokenizer has 28 ids but the model's vocabulary is 27(.|\n)*Try: the tok"
    ):
        prepare(config(path), CharacterTokenizer(), vocab_size=27)


def test_token_beyond_the_vocabulary(tmp_path: Path, cache: Path) -> None:
    class Sparse(CharacterTokenizer):
        def __len__(self) -> int:
            return 20  # but its ids go up to 27

    with pytest.raises(DataError, match=r"the tokenizer gives id 27 but the model's vocabulary is 25"):
        prepare(config(write(tmp_path, STORIES)), Sparse(), vocab_size=25)
    assert list(cache.iterdir()) == []


def test_tokenizer_without_eos_and_bos(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer()
    tokenizer.eos_token_id = None
    with pytest.raises(
        DataError, match=r"neither an EOS nor a BOS token(.|\n)*Try: set one, for example \"eos_token"
    ):
        prepare(config(write(tmp_path, STORIES)), tokenizer, vocab_size=28)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_fraction_outside_0_and_1(tmp_path: Path, fraction: float) -> None:
    path = write(tmp_path, STORIES)
    with pytest.raises(
        ConfigError, match=r"data\.validation_fraction=.* must lie between 0 and 1(.|\n)*Try: data"
    ):
        prepare(config(path, validation_fraction=fraction), CharacterTokenizer(), vocab_size=28)
    valid = config(path, validation_fraction=fraction, validation_path=path)
    assert len(prepare(valid, CharacterTokenizer(), vocab_size=28).validation) > 0


def test_too_little_text(tmp_path: Path) -> None:
    path = write(tmp_path, STORIES[:30])
    with pytest.raises(DataError) as caught:
        prepare(config(path, sequence_length=200), CharacterTokenizer(), vocab_size=28)
    assert "too little validation text in data 'custom': " in str(caught.value)
    assert "but one sequence needs 201 (data.sequence_length=200, and one label)" in str(caught.value)
    assert "data.validation_fraction=0.2" in str(caught.value)
    with pytest.raises(
        DataError, match=r"too little train text(.|\n)*Try: more text, data\.sequence_length="
    ):
        prepare(config(path, sequence_length=10_000), CharacterTokenizer(), vocab_size=28)


def test_no_path() -> None:
    with pytest.raises(ConfigError, match=r"data\.path is not set"):
        prepare(config(None), CharacterTokenizer(), vocab_size=28)
