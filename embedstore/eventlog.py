"""What a build does, as JSON lines for other programs: one object an event, written as it happens.

=============  =======================================================================================================
``event``      what is in the object, beside ``time`` (ISO 8601, UTC)
=============  =======================================================================================================
start          ``version``, ``pid``, ``host``, ``cwd``, and what was asked: ``audio_dir``, ``store``, ``encoder``, ...
progress       ``done`` and ``todo`` (files; null while that is not known), ``failed``, ``seconds_audio``: when the
               work begins, and every minute, also when nothing gets done
file           ``path``, ``kind`` (added, known, failed, vanished), ``id`` of its track, ``seconds_audio`` of new sound,
               ``stage`` and ``reason`` of a failure, ``seconds`` that each stage took
end            ``report``: the whole `BuildReport`
error          ``kind`` and ``reason``: the build raised
interrupted    it was stopped before there was a report
=============  =======================================================================================================

A file that is "added" here is on the disk for good within 30 seconds.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from embedstore import __version__
from embedstore.channel import every
from embedstore.errors import ParameterError
from embedstore.lanes import Outcome
from embedstore.types import track_id

__all__ = ["EventLog", "event_log"]

EVERY = 60.0  # seconds between two lines about the progress


class EventLog:
    """Writes events; `build` calls it as its `progress`. Made by `event_log`."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._failed, self._seconds = 0, 0.0
        self._done: int | None = None
        self._todo: int | None = None

    def __call__(self, done: int, todo: int, outcome: Outcome | None) -> None:
        """Note what became of a file, or that the work begins."""
        first, self._done, self._todo = self._todo is None, done, todo
        if outcome is not None:
            sound = outcome.report.seconds if outcome.report else None
            self._failed += outcome.kind == "failed"
            self._seconds += sound or 0.0
            spent = {stage: round(seconds, 4) for stage, seconds in vars(outcome.seconds).items()}
            why = {"stage": outcome.stage, "reason": outcome.reason} if outcome.reason else {}
            named = None if outcome.key is None else track_id(outcome.key)
            about = {"path": outcome.file.full_path, "kind": outcome.kind, "id": named, "seconds_audio": sound}
            self.write("file", **about, **why, seconds=spent)
        elif first:
            self.beat()

    def beat(self) -> None:
        """Say how far it is."""
        self.write("progress", done=self._done, todo=self._todo, failed=self._failed, seconds_audio=self._seconds)

    def write(self, event: str, **facts: Any) -> None:
        """Write one event; a log that cannot be written any more is given up with a warning."""
        try:
            self.put(event, **facts)
        except OSError as error:
            self._stream = None
            warnings.warn(f"the log ends here, the build goes on: {error.strerror or error}", stacklevel=2)

    def put(self, event: str, **facts: Any) -> None:
        """Write one event.

        Raises
        ------
        OSError
        """
        with self._lock:
            if self._stream is not None:
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                self._stream.write(json.dumps({"time": now, "event": event, **facts}, default=_plain) + "\n")
                self._stream.flush()


@contextmanager
def event_log(path: str | Path | None, **facts: Any) -> Iterator[EventLog]:
    """Log one build.

    Parameters
    ----------
    path : path or None
        File to append to; ``"-"``: stderr; None: nothing is logged.
    **facts
        For the first line.

    Yields
    ------
    EventLog

    Raises
    ------
    ParameterError
        It cannot be written. Where that happens later, a warning says so and the build goes on.

    Examples
    --------
    >>> with event_log("build.jsonl", audio_dir="music") as log:  # doctest: +SKIP
    ...     log.write("end", report=build("music", progress=log).to_dict())
    """
    stream = None
    try:
        stream = sys.stderr if str(path) == "-" else None if path is None else _append_to(Path(path))
        log = EventLog(stream)
        log.put("start", version=__version__, pid=os.getpid(), host=socket.gethostname(), cwd=str(Path.cwd()), **facts)
    except OSError as error:
        _close(stream)
        raise ParameterError(f"the log {path} cannot be written: {error.strerror or error}") from error
    try:
        with every(EVERY, log.beat):
            yield log
    except KeyboardInterrupt:
        log.write("interrupted")
        raise
    except Exception as error:
        log.write("error", kind=type(error).__name__, reason=str(error))
        raise
    finally:
        _close(stream)


def _append_to(path: Path) -> TextIO:
    """Open a log; a line that was cut short by a kill ends here."""
    cut = False
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            cut = file.read() != b"\n"
    stream = path.open("a", encoding="ascii")
    stream.write("\n" * cut)
    return stream


def _close(stream: TextIO | None) -> None:
    if stream not in (None, sys.stderr):
        with suppress(OSError):  # what could not be written cannot be written now
            stream.close()


def _plain(value: Any) -> Any:
    """Write options as what is set of them."""
    return {name: held for name, held in vars(value).items() if held is not None} if is_dataclass(value) else str(value)
