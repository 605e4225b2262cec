"""Indices: kinds behind one contract (`Index`), kept beside the store, never stale in what they answer."""

from __future__ import annotations

from embedstore.index.base import Goal, Index
from embedstore.index.build import build_index, index_coverage, update_index
from embedstore.index.live import LayerSearch
from embedstore.index.rows import Rows, unit
from embedstore.index.saved import BUILTIN, IndexReport
from embedstore.index.space import TRANSFORMS, Space, Transform

__all__ = [
    "BUILTIN",
    "TRANSFORMS",
    "Goal",
    "Index",
    "IndexReport",
    "LayerSearch",
    "Rows",
    "Space",
    "Transform",
    "build_index",
    "index_coverage",
    "unit",
    "update_index",
]
