"""The process that does a job: ``python -m embedstore.web.work MODULE:FUNCTION``.

It reads one JSON line, ``{"store": path, "folder": path, "options": {...}}``, from stdin, and ends at once when stdin does. It calls
``function(store, progress, **options)``, where ``progress(done, total, doing="")`` may be called as often as it likes, and which
returns the name of what it made. The folder is the one for temporary files meanwhile; it goes with the service. On stdout it writes
JSON lines: ``{"done": 1, "total": 3, "message": ""}``, then ``{"result": name}`` or ``{"error": text}``.
"""

from __future__ import annotations

import json
import os
import pkgutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from embedstore.errors import EmbedstoreError

__all__ = ["Progress", "main"]

Progress = Callable[..., None]  # (done, total, doing="")

_PAUSE = 0.1  # seconds between two words about progress


def main(target: str) -> None:
    """Do it."""
    asked = json.loads(sys.stdin.readline())
    tempfile.tempdir = asked["folder"]
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints must not break the conversation
    threading.Thread(target=_end_with_service, daemon=True).start()
    spoke = -_PAUSE

    def progress(done: int, total: int, doing: str = "") -> None:
        nonlocal spoke
        if time.monotonic() - spoke > _PAUSE:
            output.write(json.dumps({"done": done, "total": total, "message": doing}) + "\n")
            spoke = time.monotonic()

    try:
        said = {"result": pkgutil.resolve_name(target)(asked["store"], progress, **asked["options"])}
    except (EmbedstoreError, OSError, MemoryError) as error:
        said = {"error": str(error) or "out of memory"}
    output.write(json.dumps(said) + "\n")


def _end_with_service() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
