"""Make the libraries that ligo stands on say only what concerns its user."""

from __future__ import annotations

import os
import warnings


def share_cores() -> None:
    """Let waiting threads sleep; call before torch is imported, when OpenMP reads its settings.

    Spinning threads are no faster on idle cores, and on cores that other processes use they made training
    steps of a small model three times as long (two threads, two busy cores).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quiet_libraries() -> None:
    """Call once, before models are loaded; settings that the user made in the environment stay."""
    import torch

    if not torch.cuda.is_available():
        # transformers imports DeepSpeed, which otherwise remarks on the missing GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings(
        "ignore", message=".*(all_gather_into_tensor|reduce_scatter_tensor).*", category=FutureWarning
    )
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for a load of a tenth of a second
    logging.set_verbosity_error()
