"""Keep secrets out of everything that is printed or written, and places out of what is published.

Tokens come from the environment alone. Where one gets into an option, a message or a record all the same, every sink
replaces it: what is printed (`redacted_output`, `log`), every file of text (`files`), metrics, and W&B. A secret is known by
its shape, by the name before it, or because a variable of the environment that is named like a secret holds it.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast

SECRET = "<secret>"

_SHAPES = re.compile(
    "|".join(
        (
            # a private key, which may be cut, and folded by YAML; it ends with the string that it stands in
            r"-----BEGIN[A-Z0-9\s\\]*PRIVATE[\s\\]+KEY-----[^\"']*?(?:-----END[A-Z0-9\s\\]*PRIVATE[\s\\]+KEY-----|(?=[\"'])|\Z)",
            r"(?<![A-Za-z0-9])(?:"
            r"hf_(?:[A-Za-z0-9]{20,}|(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{10,})"  # Hugging Face
            r"|sk-(?=[\w-]*[A-Za-z0-9]{16})[\w-]{16,}|sk_live_\w{16,}"  # OpenAI, Anthropic and others
            r"|wandb_v1_[\w-]{16,}"
            r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![\w+/=])"  # AWS
            r"|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"  # GitHub, GitLab
            r"|AIza[\w-]{35}(?![\w+/=-])|ya29\.[\w-]{16,}"  # Google
            r"|xox[a-z]-[\w-]{10,}"  # Slack
            r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON web tokens
            r")",
        )
    )
)

_NAME = (
    r"(?:passw(?:or)?d|passphrase|secret|(?:api|access|auth|private|secret)[_-]?key(?:[_-]id)?"
    r"|(?:access|api|auth|bot|git(?:hub|lab)|hf|hub|refresh|secret|session|slack|wandb)[_-]?token)"
)
_NAMED = re.compile(rf"(?i){_NAME}$")
_NO_VALUE = r"(?!(?:null|none|true|false|~)\b|\$\{|\.\.\.|<)"

_AFTER_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    # "password": "...", also inside a string of JSON; what follows in the line stays as it is
    (re.compile(rf'(?i)({_NAME}\\?"\s*:\s*\\?")[^"\\\n]+'), rf"\1{SECRET}"),
    (re.compile(rf"(?i)({_NAME}'\s*:\s*')[^'\"\n]+"), rf"\1{SECRET}"),
    # password=..., password: ...
    (re.compile(rf"(?i)({_NAME}[ \t]*[=:][ \t]*){_NO_VALUE}(?:'[^'\"\n]+'|[^\s\"'\\,;&()\[\]{{}}<>]+)"), rf"\1{SECRET}"),
    (re.compile(rf'(?i)({_NAME}[ \t]*[=:][ \t]*\\?"){_NO_VALUE}[^"\\\n]+'), rf"\1{SECRET}"),
    # older keys of W&B look like any SHA-1, but for the word before them
    (re.compile(r"(?i)((?:key|token|login|password|wandb)\\?[\"']?[\s:=]{1,3}\\?[\"']?)[0-9a-f]{40}\b"), rf"\1{SECRET}"),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{12,}"), rf"\1{SECRET}"),
    (re.compile(r"(?i)(\bauthorization\\?[\"']?\s*[:=]\s*\\?[\"']?(?:basic|token)\s+)[\w.~+/=-]{6,}"), rf"\1{SECRET}"),
    # https://user:password@host and https://token@host; ?token=...
    (re.compile(r"(?<=://)(?:[^\s/@:\"'<>]*:[^\s/@\"'<>]+|[^\s/@:\"'<>]{16,})(?=@)"), SECRET),
    (re.compile(r"(?i)([?&](?:auth|key|sig|signature|token|x-amz-(?:signature|security-token))=)[^\s&\"'<>\\]+"), rf"\1{SECRET}"),
)  # fmt: skip

_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:API_?KEY|AUTH|CREDENTIALS?|KEY|PASS|PASSWO?R?D|PAT|SECRET|TOKEN)S?(?:_|$)"
)
_ORDINARY = re.compile(r"[a-z]{1,15}|[\d.+-]+|[~./].*", re.DOTALL)  # a word, a number, a place


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without secrets, those in the variables of `environment` among them."""
    for value in _secrets_of(environment):
        text = text.replace(value, SECRET)
    text = _SHAPES.sub(SECRET, text)
    for pattern, instead in _AFTER_NAMES:
        text = pattern.sub(instead, text)
    return text


def redact_page(page: str) -> str:
    """A page of HTML without secrets that are known by their shape or from the environment.

    What is known by the name before it stays: scripts are full of words like password, and would break.
    """
    for value in _secrets_of(os.environ):
        page = page.replace(value, SECRET)
    return _SHAPES.sub(SECRET, page)


def redact_data(value: Any) -> Any:
    """JSON data of any depth without secrets; a text below a key that is named like a secret is one."""
    if isinstance(value, Mapping):
        return {
            redact(key) if isinstance(key, str) else key: SECRET
            if isinstance(item, str) and item and _NAMED.search(str(key))
            else redact_data(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_data(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Values of variables that are named like secrets, the longest first."""
    found = {
        value
        for name, value in environment.items()
        if len(value) >= 8 and _VARIABLE.search(name) and not _ORDINARY.fullmatch(value)
    }
    return sorted(found, key=len, reverse=True)


# --- places -----------------------------------------------------------------------------------------------


def published(value: Any) -> Any:
    """JSON data as it may leave this machine: without secrets, places and the machine's name."""
    return _without_host(without_paths(redact_data(value)))


def public_name(name: str) -> str:
    """A name that may be published: a hub id or plain name as it is, the last part of anything else."""
    is_hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name)
    if is_hub_id and not ("/" in name and Path(name).exists()):
        return name
    parts = [part for part in re.split(r"[/\\:]", name) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else "checkpoint"


# An absolute path or one from the home folder, not inside a URL or a fraction such as 1/2.
_LOCAL_PATH = re.compile(r"(?<![\w:/.\\])(?:(?:~|\.{1,2}|/[\w.+-]+)/|[A-Za-z]:[\\/]|\\\\)[^\s'\"`,;)]*")


def without_paths(value: Any) -> Any:
    """`value`, JSON data of any depth, without name_or_path keys and with paths cut to their last part."""
    if isinstance(value, Mapping):
        return {
            key: without_paths(item) for key, item in value.items() if not str(key).endswith("name_or_path")
        }
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if isinstance(value, str):
        return _LOCAL_PATH.sub(lambda match: public_name(match[0]), value)
    return value


def _without_host(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_host(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_host(item) for item in value]
    host = socket.gethostname()
    if isinstance(value, str) and len(host) > 3 and host != "localhost":
        return re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "<host>", value)
    return value


# --- what is printed --------------------------------------------------------------------------------------


class _RedactedStream:
    """A stream that writes what it is given without secrets."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redacted_output() -> Iterator[None]:
    """Keep secrets out of all that Python prints in the block, libraries and warnings among it."""
    out, err = (cast(TextIO, _RedactedStream(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield
