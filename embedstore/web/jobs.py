"""Work that takes long, one after the other, each in a process of its own that ends with the service."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from embedstore.child import Child
from embedstore.errors import ParameterError, UnknownNameError
from embedstore.store import EmbeddingStore
from embedstore.web.extension import Job

__all__ = ["JobState", "Jobs"]

_REMEMBERED = 100


@dataclass(frozen=True)
class JobState:
    """How far a job is.

    Attributes
    ----------
    id : str
        Of this job.
    kind : str
        What it does: ``"map"``, ``"probe"``, ``"audit"``.
    options : dict
        As it was asked for, with what was not said.
    state : {"running", "done", "failed", "stopped"}
        Only one job runs at a time.
    done, total : int
        Steps; 0 of 0 before the first.
    message : str
        What it does now, or why it failed.
    result : str or None
        Name of what it made.
    """

    id: str
    kind: str
    options: dict[str, Any]
    state: Literal["running", "done", "failed", "stopped"] = "running"
    done: int = 0
    total: int = 0
    message: str = ""
    result: str | None = None


class Jobs:
    """Starts them, one at a time, and remembers the last ones.

    Parameters
    ----------
    store : EmbeddingStore
    kinds : mapping of str to Job

    Attributes
    ----------
    folder : Path
        For what jobs cannot keep in the store; it is gone when they are closed.
    closed : threading.Event
        Whether they are.
    """

    def __init__(self, store: EmbeddingStore, kinds: Mapping[str, Job]) -> None:
        self._store, self._kinds = store, kinds
        self._lock, self._states = threading.Lock(), dict[str, JobState]()
        self._child: Child | None = None
        self._thread: threading.Thread | None = None
        self._count, self.closed = 0, threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="embedstore-jobs-")
        self.folder = Path(self._folder.name)

    def list(self) -> list[JobState]:
        """List them, the newest first."""
        return [*reversed(self._states.copy().values())]

    def running(self) -> JobState | None:
        """Give the one that runs."""
        return next((one for one in self.list() if one.state == "running"), None)

    def start(self, kind: str, options: Mapping[str, Any]) -> JobState:
        """Start a job.

        Raises
        ------
        UnknownNameError
            Lists the kinds there are.
        ParameterError
            Options that this kind does not take.
        HTTPException
            409: another one runs.
        """
        if kind not in self._kinds:
            raise UnknownNameError(f"there is no job {kind!r:.80}; known: {', '.join(sorted(self._kinds))}")
        job = self._kinds[kind]
        try:
            asked = job.options.model_validate(options).model_dump()
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
            raise ParameterError(f"{kind}: {'; '.join(faults)}") from None
        with self._lock:
            if self.closed.is_set():
                raise HTTPException(503, "the service is ending")
            if busy := self.running():
                raise HTTPException(409, f"the job {busy.id} ({busy.kind}) is running; wait for it, or stop it")
            self._count += 1
            state = JobState(str(self._count), kind, asked)
            self._states[state.id] = state
            self._states.pop(str(self._count - _REMEMBERED), None)
            self._child = child = Child(["-m", "embedstore.web.work", job.target])
            self._thread = threading.Thread(target=self._follow, args=(state.id, child), daemon=True)
            self._thread.start()
        return state

    def stop(self, name: str) -> JobState:
        """Stop a job; one that has ended stays as it is.

        Raises
        ------
        UnknownNameError
            There is none of this id.
        """
        with self._lock:
            if name not in self._states:
                raise UnknownNameError(f"there is no job {name!r:.80}")
            if self._states[name].state == "running" and self._child is not None:
                self._say(name, state="stopped")
                self._child.kill()
            return self._states[name]

    def wait(self) -> None:
        """Wait until the job that was started last has ended."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop what runs, and start no more."""
        with self._lock:
            self.closed.set()
        if busy := self.running():
            self.stop(busy.id)
        self.wait()
        self._folder.cleanup()

    def _follow(self, name: str, child: Child) -> None:
        """Tell one process what to do, and write down what it says."""
        asked = {"store": str(self._store.path), "folder": str(self.folder), "options": self._states[name].options}
        with suppress(OSError):  # it died at once: its output says so
            child.stdin.write(json.dumps(asked).encode() + b"\n")
            child.stdin.flush()
        for line in child.stdout:
            match json.loads(line):
                case {"result": result}:
                    self._end(name, "done", "", result)
                case {"error": error}:
                    self._end(name, "failed", error)
                case step if self._states[name].state == "running":
                    self._say(name, **step)
        if self._states[name].state == "running":
            self._end(name, "failed", f"its process died ({child.death()})")
        child.end()

    def _end(self, name: str, state: str, message: str, result: str | None = None) -> None:
        with self._lock:
            if (one := self._states[name]).state == "running":
                done = one.total if state == "done" else one.done
                self._say(name, state=state, done=done, message=message, result=result)

    def _say(self, name: str, **what: Any) -> None:
        self._states[name] = replace(self._states[name], **what)
