"""Packages that load a name's module when the name is first used (PEP 562), so that importing them is quick."""

import importlib
import sys
import types
from collections.abc import Mapping
from typing import Any


class _LazyPackage(types.ModuleType):
    """A package whose names live in its modules.

    Whoever imports the module `market.solve` has it put into the package as `solve`, where users look for the
    function; such a module does not displace the name.
    """

    def __getattr__(self, name: str) -> Any:
        home = _HOMES[self.__name__].get(name)
        if home is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{self.__name__}.{home}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES[self.__name__] and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted(_HOMES[self.__name__])


_HOMES: dict[str, Mapping[str, str]] = {}


def offer(package: str, homes: Mapping[str, str]) -> list[str]:
    """Let a package offer names that its modules define, each loaded at its first use.

    Args:
        package: The package's `__name__`.
        homes: In which of its modules each name lives.

    Returns:
        The names in order, for `__all__`.
    """
    _HOMES[package] = homes
    sys.modules[package].__class__ = _LazyPackage
    return sorted(homes)
