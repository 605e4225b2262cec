"""What other packages offer the service: work that takes long, and guesses of genres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Guess", "Guessed", "Job"]


@dataclass(frozen=True)
class Job:
    """Work that may be asked for, and takes long.

    Attributes
    ----------
    target : str
        ``"module:function"``, called in a process of its own as ``function(store_path, progress, **options)``: see `embedstore.web.work`.
    options : class of pydantic models
        What may be asked; it should forbid other fields.
    """

    target: str
    options: type[BaseModel]


@dataclass(frozen=True)
class Guess:
    """A genre that a sound may have.

    Attributes
    ----------
    genre : str
        Its name.
    probability : float
        From 0 to 1.
    """

    genre: str
    probability: float


@dataclass(frozen=True)
class Guessed:
    """What a trained probe thinks of a sound.

    Attributes
    ----------
    probe : str
        Its name.
    genres : tuple of Guess
        Most likely first.
    notes : tuple of str
        What a person should know, e.g. that it would rather not say.
    sure : bool
        False where it would rather not say.
    """

    probe: str
    genres: tuple[Guess, ...]
    notes: tuple[str, ...] = ()
    sure: bool = True
