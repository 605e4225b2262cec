"""What another package adds to the service: routes, jobs, and guesses for sounds that are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedstore.store import EmbeddingStore
from embedstore.types import LayerEmbeddings
from embedstore.web.offers import Guessed, Job

if TYPE_CHECKING:
    from fastapi import APIRouter

    from embedstore.web.jobs import Jobs
    from embedstore.web.library import Library
    from embedstore.web.searchers import Searchers
    from embedstore.web.uploads import Bodies, Uploads

__all__ = ["Extension", "Service"]


@dataclass(frozen=True)
class Extension:
    """What is added.

    Attributes
    ----------
    routes : function of a Service, or None
        Makes a router; its routes lie below ``/api``.
    jobs : mapping of str to Job
        By kind.
    guess : function of (EmbeddingStore, LayerEmbeddings, int or None), or None
        Guesses the genres of a sound; the number is the key that it has, or would have, in a store, where known. Gives None where
        no probe is trained.
    samples : tuple of dataclasses
        An example of each thing that the routes take or give, for ``/openapi.json``: see `embedstore.web.models`.
    """

    routes: Callable[[Service], APIRouter] | None = None
    jobs: Mapping[str, Job] = field(default_factory=dict)
    guess: Callable[[EmbeddingStore, LayerEmbeddings, int | None], Guessed | None] | None = None
    samples: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Service:
    """What routes need.

    Attributes
    ----------
    store : EmbeddingStore
    searchers : Searchers
        Of its layers.
    library : Library
        Its tracks, by id and by words.
    jobs : Jobs
        Of all kinds.
    bodies : Bodies
        Receives sounds.
    uploads : Uploads
        Sounds that were sent, as vectors.
    """

    store: EmbeddingStore
    searchers: Searchers
    library: Library
    jobs: Jobs
    bodies: Bodies
    uploads: Uploads
