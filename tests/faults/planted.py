"""Twelve forms of secrets, made up from a seed, and where they must not be found."""

from __future__ import annotations

import random
import re
from pathlib import Path

FORMS = {
    "Hugging Face": "hf_{alnum:34}",
    "OpenAI": "sk-{alnum:48}",
    "OpenAI, of a project": "sk-proj-{alnum:40}_{alnum:20}",
    "W&B": "{hex:40}",
    "AWS": "AKIA{upper:16}",
    "GitHub": "ghp_{alnum:36}",
    "GitHub, fine": "github_pat_{alnum:22}_{alnum:59}",
    "Google": "AIza{alnum:35}",
    "Slack": "xoxb-{digit:12}-{digit:12}-{alnum:24}",
    "JSON web token": "eyJ{alnum:20}.eyJ{alnum:60}.{alnum:43}",
    "password": "{alnum:4}-{alnum:4}!{alnum:6}",
    "private key": "-----BEGIN PRIVATE KEY-----{alnum:64}-----END PRIVATE KEY-----",
}
_NAMED = {"W&B": "WANDB_API_KEY", "password": "password"}
"""What stands before those that have no shape of their own."""
_LETTERS = {
    "alnum": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
    "hex": "0123456789abcdef",
    "upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    "digit": "0123456789",
}


def planted(form: str, place: str) -> str:
    """A secret of a form, another one for every place."""
    draw = random.Random(f"{form} {place}")
    return re.sub(
        r"\{(\w+):(\d+)\}", lambda m: "".join(draw.choices(_LETTERS[m[1]], k=int(m[2]))), FORMS[form]
    )


def named(form: str, place: str) -> str:
    """The same, after its name where it needs one."""
    return f"{_NAMED[form]}={planted(form, place)}" if form in _NAMED else planted(form, place)


def address_part(secret: str) -> str:
    """What of a secret may stand in an address."""
    return secret.replace("-----BEGIN PRIVATE KEY-----", "").replace("-----END PRIVATE KEY-----", "")


def found_in(folder: Path, secret: str) -> list[str]:
    """The files whose name or content holds a secret, whatever was done to the lines around it."""
    secret = address_part(secret)
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes())
    ]
