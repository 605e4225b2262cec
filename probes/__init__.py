"""What the embeddings know: probes on each layer, with folds that keep an artist on one side.

>>> import probes
>>> sorted(probes.BUILTIN)
['knn', 'logistic', 'mlp']
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module: resolved on first use, so that `import probes` loads neither scikit-learn nor torch
_PUBLIC = {
    "BUILTIN": "probes.base",
    "ProbeReport": "probes.results",
    "evaluate": "probes.evaluation",
    "load_probe": "probes.base",
    "make_folder": "probes.report",
    "print_report": "probes.report",
    "write_report": "probes.report",
}
__all__ = ["BUILTIN", "ProbeReport", "evaluate", "load_probe", "make_folder", "print_report", "write_report"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'probes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
