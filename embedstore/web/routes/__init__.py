"""The routes, a module for each subject; its function makes a router for a `Service`."""

from embedstore.web.routes import jobs, lists, map, search, tracks, uploads  # noqa: A004 - a module

__all__ = ["ROUTES"]

ROUTES = tuple(subject.routes for subject in (tracks, search, map, uploads, lists, jobs))
