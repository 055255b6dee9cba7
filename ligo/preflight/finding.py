"""One thing that was looked at, and the words of a report without what should stay at home."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from ligo.core import redact as secrets

LEVELS = ("ok", "note", "warning", "failed")


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it."""

    level: str
    """ok, note, warning (a run may go wrong or be slow) or failed (a run would not work)."""
    topic: str
    found: str
    hint: str = ""
    exit_code: int = 0
    """Of a failed one: 2 for what is set up wrongly, 5 for what the machine lacks."""

    def __str__(self) -> str:
        mark = "" if self.level in ("ok", "note") else f"{self.level}: "
        hint = f"\n{'':<12}Try: {self.hint}" if self.hint else ""
        return f"{self.topic:<12}{mark}{self.found}{hint}"


_SHA1 = re.compile(r"\b[0-9a-f]{40}\b")  # older keys of W&B look like that
_ADDRESSES = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")
_PATHS = re.compile(r"(?<![\w.~])~?(?:/[\w.+@%~-]+)+/?")


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without secrets, host and user names, addresses and absolute paths."""
    environment = os.environ if environment is None else environment
    text = _SHA1.sub(secrets.SECRET, secrets.redact(text, environment))
    text = _PATHS.sub("<path>", text)
    text = _ADDRESSES.sub("<address>", text)
    hosts = {socket.gethostname(), socket.getfqdn(), environment.get("MASTER_ADDR", "")}
    for words, instead in ((hosts | {host.split(".")[0] for host in hosts}, "<host>"), ({_user()}, "<user>")):
        for word in sorted(words - {""}, key=len, reverse=True):
            text = re.sub(rf"(?<![\w<]){re.escape(word)}(?![\w>])", instead, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        return ""
