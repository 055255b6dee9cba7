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
from typing import Any, NamedTuple, TextIO, cast

SECRET = "<secret>"


class _Rule(NamedTuple):
    """What to replace, and words in lower case of which one is in every match: texts may have many megabytes."""

    words: tuple[str, ...]
    pattern: re.Pattern[str]
    instead: str


def _rule(words: str, pattern: str, instead: str = SECRET) -> _Rule:
    return _Rule(tuple(words.split()), re.compile(pattern), instead)


_START = r"(?<![A-Za-z0-9])"
_SHAPES = (
    # a private key, which may be cut, and folded by YAML; it ends with the string that it stands in
    _rule("private", r"-----BEGIN[A-Z0-9\s\\]*PRIVATE[\s\\]+KEY-----[^\"']*?(?:-----END[A-Z0-9\s\\]*PRIVATE[\s\\]+KEY-----|(?=[\"'])|\Z)"),
    _rule("hf_", rf"{_START}hf_(?:[A-Za-z0-9]{{20,}}|(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{{10,}})"),  # Hugging Face
    _rule("sk- sk_", rf"{_START}sk(?:-(?=[\w-]*[A-Za-z0-9]{{16}})[\w-]{{16,}}|_live_\w{{16,}})"),  # OpenAI and others
    _rule("wandb_v1_", rf"{_START}wandb_v1_[\w-]{{16,}}"),
    _rule("akia asia", rf"{_START}A(?:KI|SI)A[A-Z0-9]{{16}}(?![\w+/=])"),  # AWS
    _rule("gho_ ghp_ ghs_ ghu_ ghr_", rf"{_START}gh[opsur]_[A-Za-z0-9]{{16,}}"),
    _rule("github_pat_ glpat-", rf"{_START}(?:github_pat_\w{{16,}}|glpat-[\w-]{{16,}})"),
    _rule("aiza ya29.", rf"{_START}(?:AIza[\w-]{{35}}(?![\w+/=-])|ya29\.[\w-]{{16,}})"),  # Google
    _rule("xox", rf"{_START}xox[a-z]-[\w-]{{10,}}"),  # Slack
    _rule("eyj", rf"{_START}eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w-]*"),  # JSON web tokens
)  # fmt: skip

_KEYS = ("access", "api", "auth", "private", "secret")
_TOKENS = (
    "access",
    "api",
    "auth",
    "bot",
    "github",
    "gitlab",
    "hf",
    "hub",
    "refresh",
    "secret",
    "session",
    "slack",
    "wandb",
)
_NAME = rf"(?:passw(?:or)?d|passphrase|secret|(?:{'|'.join(_KEYS)})[_-]?key(?:[_-]id)?|(?:{'|'.join(_TOKENS)})[_-]?token)"
_NAMED = re.compile(rf"(?i){_NAME}$")
_WORDS = " ".join(
    ["passw", "passphrase", "secret"]
    + [
        f"{of}{dash}{what}"
        for what, all_of in (("key", _KEYS), ("token", _TOKENS))
        for of in all_of
        for dash in ("", "_", "-")
    ]
)
_NO_VALUE = r"(?!(?:null|none|true|false|~)\b|\$\{|\.\.\.|<)"
_KEEP = rf"\1{SECRET}"

_AFTER_NAMES = (
    # "password": "..."; the same in a string of JSON, where quotes are escaped; in the repr of a dict
    _rule(_WORDS, rf'(?i)({_NAME}"\s*:\s*")(?:[^"\\\n]|\\.)+', _KEEP),
    _rule(_WORDS, rf'(?i)({_NAME}\\"\s*:\s*\\")[^"\\\n]+', _KEEP),
    _rule(_WORDS, rf"(?i)({_NAME}'\s*:\s*')[^'\"\n]+", _KEEP),
    # password=..., password: ..., in quotes or not
    _rule(_WORDS, rf"(?i)({_NAME}[ \t]*[=:][ \t]*){_NO_VALUE}(?:'[^'\"\n]+'|[^\s\"'\\,;&()\[\]{{}}<>]+)", _KEEP),
    _rule(_WORDS, rf'(?i)({_NAME}[ \t]*[=:][ \t]*\\?"){_NO_VALUE}[^"\\\n]+', _KEEP),
    # older keys of W&B look like any SHA-1, but for the word before them
    _rule("key token login password wandb", r"(?i)((?:key|token|login|password|wandb)\\?[\"']?[\s:=]{1,3}\\?[\"']?)[0-9a-f]{40}\b", _KEEP),
    _rule("bearer", r"(?i)(\bbearer\s+)[\w.~+/=-]{12,}", _KEEP),
    _rule("authorization", r"(?i)(\bauthorization\\?[\"']?\s*[:=]\s*\\?[\"']?(?:basic|token)\s+)[\w.~+/=-]{6,}", _KEEP),
    # https://user:password@host and https://token@host; ?token=...
    _rule("://", r"(?<=://)(?:[^\s/@:\"'<>]*:[^\s/@\"'<>]+|[^\s/@:\"'<>]{16,})(?=@)"),
    _rule("?auth= ?key= ?sig ?token= ?x-amz &auth= &key= &sig &token= &x-amz", r"(?i)([?&](?:auth|key|sig|signature|token|x-amz-(?:signature|security-token))=)[^\s&\"'<>\\]+", _KEEP),
)  # fmt: skip

_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:API_?KEY|AUTH|CREDENTIALS?|KEY|PASS|PASSWO?R?D|PAT|SECRET|TOKEN)S?(?:_|$)"
)
_ORDINARY = re.compile(r"[a-z]{1,15}|[\d.+-]+|[~./].*", re.DOTALL)  # a word, a number, a place


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without secrets, those in the variables of `environment` among them."""
    return _replaced(text, environment, (*_SHAPES, *_AFTER_NAMES))


def redact_page(page: str) -> str:
    """A page of HTML without secrets that are known by their shape or from the environment.

    What is known by the name before it stays: scripts are full of words like password, and would break.
    """
    return _replaced(page, os.environ, _SHAPES)


def _replaced(text: str, environment: Mapping[str, str], rules: tuple[_Rule, ...]) -> str:
    for value in _secrets_of(environment):
        text = text.replace(value, SECRET)
    lower = text.lower()
    for rule in rules:
        if any(word in lower for word in rule.words):
            text = rule.pattern.sub(rule.instead, text)
    return text


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
        environment[name]
        for name in environment
        if _VARIABLE.search(name)
        and len(environment[name]) >= 8
        and not _ORDINARY.fullmatch(environment[name])
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
