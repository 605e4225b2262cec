"""Indices: kinds behind one contract (`Index`), kept beside the store, never stale in what they answer."""

from __future__ import annotations

from embedstore.index.base import Index
from embedstore.index.build import build_index, index_coverage
from embedstore.index.live import LayerSearch
from embedstore.index.saved import BUILTIN, IndexReport

__all__ = ["BUILTIN", "Index", "IndexReport", "LayerSearch", "build_index", "index_coverage"]
