"""The store as a page to explore, and as a service: a typed JSON API, described at ``/openapi.json``."""

from embedstore.web.extension import Extension, Service
from embedstore.web.offers import Guess, Guessed, Job
from embedstore.web.server import Address, serve

__all__ = ["Address", "Extension", "Guess", "Guessed", "Job", "Service", "serve"]
