"""`small=scratch`: no small model at hand, so train one first, and record what that cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ligo.accounting.flops import model_flops
from ligo.checkpoint.writer import write_weights
from ligo.config import GrowConfig, small_training
from ligo.core import distributed
from ligo.core.files import folder_aside, write_json, write_text
from ligo.core.log import say
from ligo.core.run import Run, config_hash, versions
from ligo.core.units import flops as in_flops
from ligo.data.bpe import train_tokenizer
from ligo.data.loader import Batches, validation_batches
from ligo.data.sources import documents
from ligo.data.tokenize import prepare
from ligo.families.base import family_of
from ligo.plan import scratch_model_config
from ligo.tracking.jsonl import JsonlTracker
from ligo.training.config import batch_shape


def train_small(config: GrowConfig, run: Run, run_config: dict[str, Any], config_yaml: str) -> Path:
    """Train tokenizer and small model on the run's text; the folder `small/` of the run, done once.

    The folder's `ligo.json` holds tokens, FLOPs and loss of the training, which the ledger charges.

    Raises:
        LigoError: as the data, training and checkpoint rooms do.
    """
    folder = run.folder / "small"
    if (folder / "ligo.json").is_file():
        return folder
    from transformers import AutoTokenizer

    from ligo.training.engine import make_engine
    from ligo.training.loop import train
    from ligo.training.models import fresh_model

    model_config, training = scratch_model_config(config.small), small_training(config)
    length, vocab_size = config.data.sequence_length, model_config["vocab_size"]
    shape = batch_shape(training, length, distributed.world_size())
    tokenizer_folder = run.folder / "tokenizer"
    with distributed.others_wait() as alone:
        if alone and not tokenizer_folder.exists():
            tokenizer = train_tokenizer(documents(config.data.path, config.data), vocab_size)
            prepare(config.data, tokenizer, vocab_size=vocab_size)
            run.open(run_config, config_yaml, config.seed)
            with folder_aside(tokenizer_folder) as aside:
                tokenizer.save_pretrained(aside)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    corpus = prepare(config.data, tokenizer, vocab_size=vocab_size)

    family = family_of(model_config)
    engine = make_engine(fresh_model(model_config, config.seed), training, shape, config.deepspeed)
    done = train(
        engine,
        arm="small",
        batches=Batches(corpus, length, shape.windows, config.seed),
        validation=validation_batches(corpus, length, 32, config.data.validation_tokens),
        config=training,
        flops_per_token=model_flops(family, family.dims(model_config), length).training,
        tracker=JsonlTracker(run.metrics, run.summary),
        checkpoints=run.checkpoints("small"),
        config_hash=config_hash(run_config),
    )
    weights = engine.weights()
    engine.close()
    with distributed.others_wait() as alone:
        if alone:
            with folder_aside(folder) as aside:
                write_weights(aside, weights.items())
                tokenizer.save_pretrained(aside)
                write_json(aside / "config.json", model_config)
                record = {
                    "tokens": done.tokens,
                    "flops": done.flops,
                    "loss": done.loss,
                    "wall_s": done.wall_s,
                }
                write_json(
                    aside / "ligo.json",
                    {"training": record, "data": config.data.name, "versions": versions()},
                )
                write_text(aside / "README.md", _card(config, done.tokens, done.flops, done.loss))
            say(f"trained the small model: validation loss {done.loss:.4f} after {in_flops(done.flops)}")
    return folder


def _card(config: GrowConfig, tokens: int, flops: float, loss: float) -> str:
    return (
        "---\nlibrary_name: transformers\ntags: [ligo]\n---\n\n"
        f"# A small LLaMA trained by ligo\n\nTrained on {tokens:,} tokens of `{config.data.name}` "
        f"({flops:.4g} FLOPs, counted as 3x forward), validation loss {loss:.4f} nats per token.\n"
    )
