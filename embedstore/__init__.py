"""embedstore: keep what a self-supervised model hears in every track, layer by layer, and find what sounds alike.

>>> import embedstore
>>> embedstore.__version__.count(".")
2
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> module: resolved on first use, so that `import embedstore` stays light
_PUBLIC = {
    "EmbeddingStore": "embedstore.store",
    "build": "embedstore.pipeline",
    "build_index": "embedstore.index",
    "EncoderOptions": "embedstore.options",
    "export": "embedstore.exports",
    "find_audio": "embedstore.audio",
    "load_encoder": "embedstore.encoders",
    "read_audio": "embedstore.audio",
    "Searcher": "embedstore.search",
}
__all__ = [
    "EmbeddingStore",
    "EncoderOptions",
    "Searcher",
    "__version__",
    "build",
    "build_index",
    "export",
    "find_audio",
    "load_encoder",
    "read_audio",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'embedstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
