"""Search: what sounds like a track, a file, several of them or a genre; filtered, shaped, written down."""

from __future__ import annotations

from embedstore.search.searcher import Searcher, search
from embedstore.search.values import Filter, Hit, Query, SearchResult, Seed, Shape

__all__ = ["Filter", "Hit", "Query", "SearchResult", "Searcher", "Seed", "Shape", "search"]
