"""python -m ligo.launch: compose the options once, write them down, and start the ranks, which read that file."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import yaml

from ligo.command import refuse_secrets
from ligo.config import GrowConfig, compose
from ligo.core.ending import ending
from ligo.core.errors import ConfigError, nearest
from ligo.core.files import write_text
from ligo.core.permissions import take_permissions
from ligo.core.run import config_hash
from ligo.grow import run_folder
from ligo.help import EXIT_CODES, example_lines

DESCRIPTION = """Start ligo.grow in several processes. The options are composed once, here, and written into the run folder.

  python -m ligo.launch LAUNCHER [the launcher's own arguments] -- [options of ligo.grow]

Launchers: torchrun, deepspeed, srun; there is no default. Options of ligo.grow: python -m ligo.grow --help."""
EXAMPLES = (
    "python -m ligo.launch torchrun --standalone --nproc_per_node 8 -- +small=llama-7b +target=13b",
    "python -m ligo.launch deepspeed --hostfile launch/hostfile -- +small=llama-7b +target=13b",
    "python -m ligo.launch srun --kill-on-bad-exit=1 -- +small=llama-7b +target=13b",
)


def command(launcher: str, own: list[str], config: Path) -> list[str]:
    """What is started.

    Raises:
        ConfigError: the launcher is not known.
    """
    starts = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run", *own, "-m", "ligo.grow"],
        # Hydra's parser would refuse the --local_rank that it adds otherwise
        "deepspeed": [
            str(Path(sys.executable).with_name("deepspeed")), "--no_local_rank", *own, "--module", "ligo.grow"
        ],
        "srun": ["srun", *own, sys.executable, "-m", "ligo.grow"],
    }  # fmt: skip
    if launcher not in starts:
        raise ConfigError(
            f"{launcher} is no launcher that ligo knows: there are {', '.join(starts)}.\n"
            f"  Try: python -m ligo.launch {nearest(launcher, starts) or 'torchrun'} ... -- ..."
        )
    return [*starts[launcher], "--config", str(config)]


def write_resolved(config: GrowConfig, resolved: str) -> Path:
    """Write the options where the run will lie; another config of the same folder gets another file.

    Raises:
        ConfigError: one of them holds a secret.
        ResourceError: the folder cannot be written.
    """
    why, instead = (
        "the ranks read their options from a file",
        "the launcher itself: torchrun ... -m ligo.grow OPTIONS",
    )
    refuse_secrets(resolved.splitlines(), why, instead)
    folder = run_folder(config, config_hash(yaml.safe_load(resolved)))
    path = folder / f"launched-{hashlib.sha256(resolved.encode()).hexdigest()[:8]}.yaml"
    write_text(path, resolved)
    return path


def main() -> None:
    """Become the launcher."""
    own, dashes, options = sys.argv[1:], "--" in sys.argv[1:], list[str]()
    if dashes:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    if not own or not dashes or {"-h", "--help"} & set(own):
        print("\n".join([DESCRIPTION, "", *example_lines(EXAMPLES), "", EXIT_CODES]))
        sys.exit(0 if {"-h", "--help"} & set(own) else 2)
    with ending():
        start = command(own[0], own[1:], write_resolved(*compose(take_permissions(options))))
        try:
            os.execvp(start[0], start)
        except FileNotFoundError:
            raise ConfigError(f"{start[0]} is not installed here.\n  Try: torchrun") from None


if __name__ == "__main__":
    main()
