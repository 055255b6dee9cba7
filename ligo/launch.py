"""python -m ligo.launch: compose the options once, write them down, and start the ranks, which read that file."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import ligo.grow
import ligo.tune
from ligo.command import refuse_secrets
from ligo.config import GROW
from ligo.core.ending import ending
from ligo.core.errors import ConfigError, nearest
from ligo.core.files import write_text
from ligo.core.launcher import EXIT_CODE_FILE, end_with_parent
from ligo.core.permissions import take_permissions
from ligo.core.run import config_hash
from ligo.help import EXIT_CODES, example_lines
from ligo.options import Options, compose_options

DESCRIPTION = """Start ligo.grow, or ligo.tune, in several processes. The options are composed once, here, and written into the run folder.

  python -m ligo.launch LAUNCHER [the launcher's own arguments] -- [options of ligo.grow]
  python -m ligo.launch LAUNCHER [the launcher's own arguments] -- ligo.tune [options of ligo.tune]

Launchers: torchrun, deepspeed, srun; there is no default. Options of ligo.grow: python -m ligo.grow --help.
It ends with the exit code that a rank ended with, also where the launcher has only one code for all that can go wrong."""
EXAMPLES = (
    "python -m ligo.launch torchrun --standalone --nproc_per_node 8 -- +small=llama-7b +target=13b",
    "python -m ligo.launch deepspeed --hostfile launch/hostfile -- +small=llama-7b +target=13b",
    "python -m ligo.launch srun --kill-on-bad-exit=1 -- +small=llama-7b +target=13b",
    "python -m ligo.launch torchrun --standalone --nproc_per_node 8 -- ligo.tune small.path=DIR data.path=FILE.json",
)
PROGRAMS: dict[str, tuple[Options, Callable[[Any, str], Path]]] = {
    "ligo.grow": (GROW, ligo.grow.run_folder),
    "ligo.tune": (ligo.tune.OPTIONS, ligo.tune.run_folder),
}
"""What can be started: its options, and where a run of it lies."""


def command(launcher: str, own: list[str], config: Path, program: str = "ligo.grow") -> list[str]:
    """What is started.

    Raises:
        ConfigError: the launcher is not known.
    """
    starts = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run", *own, "-m", program],
        # Hydra's parser would refuse the --local_rank that it adds otherwise
        "deepspeed": [
            str(Path(sys.executable).with_name("deepspeed")), "--no_local_rank", *own, "--module", program
        ],
        "srun": ["srun", *own, sys.executable, "-m", program],
    }  # fmt: skip
    if launcher not in starts:
        raise ConfigError(
            f"{launcher} is no launcher that ligo knows: there are {', '.join(starts)}.\n"
            f"  Try: python -m ligo.launch {nearest(launcher, starts) or 'torchrun'} ... -- ..."
        )
    return [*starts[launcher], "--config", str(config)]


def write_resolved(arguments: list[str]) -> tuple[str, Path]:
    """Compose the options, and write them where the run will lie; another config of the same folder gets another file.

    Args:
        arguments: options, after the name of the program where that is not ligo.grow.

    Returns:
        The program, and the file.

    Raises:
        ConfigError: an option that cannot be, or one that holds a secret.
        ResourceError: the folder cannot be written.
    """
    named = bool(arguments) and arguments[0] in PROGRAMS
    program, words = (arguments[0], arguments[1:]) if named else ("ligo.grow", arguments)
    options, run_folder = PROGRAMS[program]
    config, resolved = compose_options(words, options)
    why, instead = (
        "the ranks read their options from a file",
        f"the launcher itself: torchrun ... -m {program} OPTIONS",
    )
    refuse_secrets(resolved.splitlines(), why, instead)
    folder = run_folder(config, config_hash(yaml.safe_load(resolved)))
    path = folder / f"launched-{hashlib.sha256(resolved.encode()).hexdigest()[:8]}.yaml"
    write_text(path, resolved)
    return program, path


def supervise(start: list[str]) -> int:
    """Run the launcher to its end, pass on the signals that ask to stop, and give back the exit code of its ranks.

    Raises:
        ConfigError: it is not installed.
    """
    with TemporaryDirectory(prefix="ligo-launch-") as folder:
        said = Path(folder) / "exit-code"
        try:
            launcher = subprocess.Popen(
                start, env={**os.environ, EXIT_CODE_FILE: str(said)}, preexec_fn=end_with_parent
            )
        except FileNotFoundError:
            raise ConfigError(f"{start[0]} is not installed here.\n  Try: torchrun") from None
        for number in (signal.SIGTERM, signal.SIGUSR1):  # the second would only kill torchrun
            signal.signal(number, lambda *_: launcher.send_signal(signal.SIGTERM))
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal has sent it to the launcher too
        code = launcher.wait()
        if code and said.is_file():
            return int(said.read_text())
        return code if code >= 0 else 128 - code


def main() -> None:
    """Start the launcher, and wait for it."""
    own, dashes, options = sys.argv[1:], "--" in sys.argv[1:], list[str]()
    if dashes:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    if not own or not dashes or {"-h", "--help"} & set(own):
        print("\n".join([DESCRIPTION, "", *example_lines(EXAMPLES), "", EXIT_CODES]))
        sys.exit(0 if {"-h", "--help"} & set(own) else 2)
    with ending():
        program, config = write_resolved(take_permissions(options))
        code = supervise(command(own[0], own[1:], config, program))
    sys.exit(code)


if __name__ == "__main__":
    main()
