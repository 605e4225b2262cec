"""The store as a service: a typed JSON API over one `Searcher`, described at ``/openapi.json``."""

from embedstore.web.server import Address, serve

__all__ = ["Address", "serve"]
