"""`small=scratch`: no small model at hand, so train one first, and record what that cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ligo.accounting.flops import model_flops
from ligo.checkpoint.writer import write_weights
from ligo.config import GrowConfig, small_training
from ligo.core import distributed
from ligo.core.files import folder_aside, write_json, write_text
from ligo.core.log import say
from ligo.core.run import Run, versions
from ligo.core.units import flops as in_flops
from ligo.data.bpe import train_tokenizer
from ligo.data.loader import Batches, validation_batches
from ligo.data.sources import documents
from ligo.data.tokenize import prepare
from ligo.families.base import family_of
from ligo.plan import scratch_model_config
from ligo.tracking.base import Tracker
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.loop import Progress


def train_small(config: GrowConfig, run: Run, digest: str, tracker: Tracker) -> Path:
    """Train tokenizer and small model on the run's text; the folder `small/` of the run, made once.

    The folder's `ligo.json` holds tokens, FLOPs and loss of the training, which the ledger charges.

    Raises:
        LigoError: as the data, training and checkpoint rooms do.
    """
    folder = run.folder / "small"
    if (folder / "ligo.json").is_file():
        return folder
    from ligo.training.engine import make_engine
    from ligo.training.loop import train
    from ligo.training.models import fresh_model

    model_config, training = scratch_model_config(config.small), small_training(config)
    length = config.data.sequence_length
    shape = batch_shape(training, length, distributed.world_size())
    tokenizer = _tokenizer(config, run.folder / "tokenizer", model_config["vocab_size"])
    with distributed.others_wait() as alone:
        if alone:
            prepare(config.data, tokenizer, vocab_size=model_config["vocab_size"])
    corpus = prepare(config.data, tokenizer, vocab_size=model_config["vocab_size"])

    family = family_of(model_config)
    engine = make_engine(fresh_model(model_config, config.seed), training, shape, config.deepspeed)
    done = train(
        engine,
        arm="small",
        batches=Batches(corpus, length, shape.windows, config.seed),
        validation=validation_batches(corpus, length, 32, config.data.validation_tokens),
        config=training,
        flops_per_token=model_flops(family, length).training,
        tracker=tracker,
        checkpoints=run.checkpoints("small"),
        config_hash=digest,
    )
    weights = engine.weights()
    engine.close()
    with distributed.others_wait() as alone:
        if alone:
            with folder_aside(folder) as aside:
                write_weights(aside, weights.items())
                tokenizer.save_pretrained(aside)
                write_json(aside / "config.json", model_config)
                write_json(aside / "ligo.json", _record(config, training, done))
                write_text(aside / "README.md", _card(config, training, done))
            say(f"trained the small model: validation loss {done.loss:.4f} after {in_flops(done.flops)}")
    return folder


def _tokenizer(config: GrowConfig, folder: Path, vocab_size: int) -> Any:
    """The run's own tokenizer, trained by rank 0 on the run's text."""
    from transformers import AutoTokenizer

    with distributed.others_wait() as alone:
        if alone and not folder.exists():
            with folder_aside(folder) as aside:
                train_tokenizer(documents(config.data.path, config.data), vocab_size).save_pretrained(aside)
    return AutoTokenizer.from_pretrained(folder)


def _record(config: GrowConfig, training: TrainConfig, done: Progress) -> dict[str, Any]:
    """What the ledger reads (`training`), and what it takes to train the same model again."""
    return {
        "training": {"tokens": done.tokens, "flops": done.flops, "loss": done.loss},
        "data": {"name": config.data.name, "sequence_length": config.data.sequence_length},
        "options": asdict(training),
        "seed": config.seed,
        "versions": versions(),
    }


def _card(config: GrowConfig, training: TrainConfig, done: Progress) -> str:
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [ligo]\n---\n\n"
        "# A small LLaMA trained by ligo\n\n"
        "| | |\n|---|---|\n"
        f"| text | `{config.data.name}`, tokenizer trained on the same text |\n"
        f"| training | {done.tokens:,} tokens, windows of {config.data.sequence_length}, "
        f"{training.batch_tokens:,} tokens per step, peak rate {training.lr:g}, {training.schedule} |\n"
        f"| cost | {done.flops:.4g} FLOPs (3x forward, lookups free, full attention counted) |\n"
        f"| validation loss | {done.loss:.4f} nats per token, on text held out by document |\n\n"
        "The same as data: `ligo.json`.\n"
    )
