"""Registries: a decorator puts a class under its name, and walking a package fills the registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from ligo.core.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind, filled by importing every module of one package.

    A new file in the package is found by itself: there is no second list to keep.
    """

    def __init__(self, kind: str, package: str, option: str = "") -> None:
        """
        Args:
            option: what sets one of them, for messages: "operator.width".
        """
        self.kind, self._option = kind, option
        self._package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: store the decorated thing under `name`; a name is given once."""

        def store(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return store

    def discover(self) -> None:
        """Import every module of the package, so that each has registered itself."""
        if self._discovered:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            if module.name == "__main__":  # a command of its own
                continue
            importlib.import_module(f"{self._package}.{module.name}")
        self._discovered = True

    def names(self) -> list[str]:
        """All names, sorted."""
        self.discover()
        return sorted(self._entries)

    def name_of(self, entry: T) -> str:
        """The name that an entry was registered under."""
        self.discover()
        return next(name for name, known in self._entries.items() if known is entry)

    def get(self, name: str) -> T:
        """The entry under `name`.

        Raises:
            ConfigError: no such name; the message lists those there are.
        """
        self.discover()
        if name not in self._entries:
            close = nearest(name, self._entries)
            raise ConfigError(
                f"{self.kind} '{name}' is not known.\n  Known: {', '.join(self.names())}."
                + f"\n  Try: {self._option + '=' if self._option else ''}{close or self.names()[0]}"
            )
        return self._entries[name]
