"""What the embeddings know: probes on each layer, with folds that keep an artist on one side.

>>> import probes
>>> sorted(probes.BUILTIN)
['centroid', 'genrenet', 'knn', 'logistic', 'mlp', 'ridge']
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module: resolved on first use, so that `import probes` loads neither scikit-learn nor torch
_PUBLIC = {
    "AuditReport": "probes.audit",
    "BUILTIN": "probes.base",
    "PRESETS": "probes.presets",
    "ProbeReport": "probes.results",
    "Protocol": "probes.protocol",
    "Study": "probes.results",
    "SearchReport": "probes.retrieval",
    "SavedProbe": "probes.saved",
    "audit_alike": "probes.audit",
    "audit_leaks": "probes.audit",
    "classify": "probes.classification",
    "check_tracker": "probes.tracking",
    "compare": "probes.evaluation",
    "evaluate": "probes.evaluation",
    "evaluate_search": "probes.retrieval",
    "keep_probe": "probes.saved",
    "load_probe": "probes.base",
    "make_folder": "probes.report",
    "print_report": "probes.report",
    "run": "probes.presets",
    "side_by_side": "probes.evaluation",
    "space_of": "probes.chosen",
    "study": "probes.evaluation",
    "track": "probes.tracking",
    "write_report": "probes.report",
}
__all__ = [  # noqa: PLE0604 - they are names
    *_PUBLIC,
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'probes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
