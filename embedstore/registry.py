"""Names to code: one literal table per room, third parties by entry points, did-you-mean for the rest.

A table maps a name to ``"module:attribute"``, so listing what there is imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from embedstore.errors import MissingDependencyError, ParameterError, UnknownNameError

__all__ = ["known", "require", "resolve", "unknown_name"]


def known(room: str, builtin: Mapping[str, str]) -> dict[str, str]:
    """List the names of a room, built-in first, then those of installed plug-ins.

    Parameters
    ----------
    room : str
        ``"encoders"``, ``"indexes"``, ``"probes"`` or ``"labels"``; plug-ins register under ``embedstore.<room>``.
    builtin : mapping of name to ``"module:attribute"``

    Raises
    ------
    ParameterError
        Two distributions registered the same name.
    """
    table = dict(builtin)
    for point in _plugins(room, tuple(sys.path)):
        if table.setdefault(point.name, point.value) != point.value:
            raise ParameterError(
                f"two plug-ins call themselves {point.name!r} in embedstore.{room}: {table[point.name]} and {point.value}; uninstall one"
            )
    return table


@cache  # it reads a file of each installed distribution
def _plugins(room: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """List what the distributions on this search path register for a room."""
    return tuple(entry_points(group=f"embedstore.{room}"))


def unknown_name(kind: str, name: str, names: Iterable[str]) -> UnknownNameError:
    """Make the error for an unknown name: lists the known ones and the closest.

    >>> str(unknown_name("probe", "knm", ["knn", "mlp"]))
    "unknown probe 'knm'; did you mean 'knn'? known: knn, mlp"
    """
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return UnknownNameError(f"unknown {kind} {name!r}{hint} known: {', '.join(names) or '(none)'}")


def resolve(room: str, builtin: Mapping[str, str], name: str) -> Any:
    """Import what a name stands for; ``"package.module:attribute"`` works without registration.

    Raises
    ------
    UnknownNameError
        With the known names and the closest.
    """
    table = known(room, builtin)
    target = table.get(name, name if ":" in name else "")
    module, _, attribute = target.partition(":")
    if not (module and attribute):
        raise unknown_name(room.removesuffix("es" if room == "indexes" else "s"), name, table)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        if name in table:
            raise
        raise UnknownNameError(
            f"{name!r} is neither a known name nor importable: {error}; known: {', '.join(table)}"
        ) from error


def require(module: str, install: str) -> ModuleType:
    """Import an optional library, or say how to install it.

    >>> require("no_such_library", "pip install no-such-library")
    Traceback (most recent call last):
        ...
    embedstore.errors.MissingDependencyError: no_such_library is not installed; run: pip install no-such-library
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = (
            "is not installed"
            if isinstance(error, ModuleNotFoundError) and error.name == module.split(".", maxsplit=1)[0]
            else f"cannot be imported ({error})"
        )
        raise MissingDependencyError(f"{module} {reason}; run: {install}") from error
