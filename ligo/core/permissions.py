"""What only the person at the command line may allow. No config file can: those travel with checkpoints."""

from __future__ import annotations

import os

ALLOW_PICKLE = "allow_pickle=true"
"""An argument of every command, no option: it reads states that torch or DeepSpeed pickled, with `weights_only`."""

_VARIABLE = "LIGO_ALLOW_PICKLE"  # ranks and jobs that are started from here inherit it


def take_permissions(arguments: list[str]) -> list[str]:
    """Note what is allowed on a command line; the arguments that are left."""
    if ALLOW_PICKLE in arguments:
        os.environ[_VARIABLE] = "true"
    return [argument for argument in arguments if argument != ALLOW_PICKLE]


def pickle_allowed() -> bool:
    return os.environ.get(_VARIABLE) == "true"
