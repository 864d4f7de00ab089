"""The user's own modules, named on the command line and never in a file; errors say what is missing."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from hero.errors import ConfigError

__all__ = ["import_own"]


def import_own(name: str, wanted: str) -> ModuleType:
    """The module `name`, also from the current directory, which a console script does not search by itself.

    Args:
        wanted: what it was named for; the error message begins with it.

    Raises:
        ConfigError: there is no such module, or importing it fails.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        parts = name.split(".")
        if isinstance(error, ModuleNotFoundError) and error.name in {
            ".".join(parts[: length + 1]) for length in range(len(parts))
        }:
            raise ConfigError(f"{wanted}: no module named {error.name!r}, neither in {here} nor installed") from None
        raise ConfigError(f"{wanted}: importing {name} failed: {type(error).__name__}: {error}") from error
