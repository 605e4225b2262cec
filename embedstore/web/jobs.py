"""Work that takes long, one after the other, each in a process of its own that ends with the service."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from embedstore.child import Child
from embedstore.errors import ParameterError, UnknownNameError
from embedstore.store import EmbeddingStore
from embedstore.web.offers import Job

__all__ = ["JobState", "Jobs"]

_REMEMBERED = 100
_FOLDER = "embedstore-jobs-"
_NEW = 5  # seconds in which a folder may not be locked yet


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
    held : contextlib.ExitStack
        What goes when they are closed.
    closed : threading.Event
        Whether they are.
    """

    def __init__(self, store: EmbeddingStore, kinds: Mapping[str, Job]) -> None:
        self._store, self._kinds = store, kinds
        self._lock, self._states = threading.Lock(), dict[str, JobState]()
        self._child: Child | None = None
        self._thread: threading.Thread | None = None
        self._count, self.closed = 0, threading.Event()
        self.held = ExitStack()
        self.folder = self.held.enter_context(_own_folder())

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
        OSError
            No process is to be had.
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
            child = Child(["-m", "embedstore.web.work", job.target])
            state = JobState(str(self._count + 1), kind, asked)
            thread = threading.Thread(target=self._follow, args=(state, child), daemon=True)
            self._states[state.id] = state
            try:
                thread.start()
            except RuntimeError as error:
                del self._states[state.id]
                child.end()
                raise OSError(errno.EAGAIN, str(error)) from error
            self._count, self._child, self._thread = self._count + 1, child, thread
            self._states.pop(str(self._count - _REMEMBERED), None)
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
                self._states[name] = replace(self._states[name], state="stopped")
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
        self.held.close()

    def _follow(self, job: JobState, child: Child) -> None:
        """Tell one process what to do, and write down what it says, until it has ended."""
        asked, line = {"store": str(self._store.path), "folder": str(self.folder), "options": job.options}, b""
        try:
            with suppress(OSError):  # it died at once: its output says so
                child.stdin.write(json.dumps(asked).encode() + b"\n")
                child.stdin.flush()
            for line in child.stdout:
                self._say(job.id, **_understood(line))
            if self._states[job.id].state == "running":
                self._say(job.id, state="failed", message=f"its process died ({child.death()})")
        except ValueError:
            self._say(job.id, state="failed", message=f"its process said what no job says: {line[:80]!r}")
        finally:
            child.end()

    def _say(self, name: str, **what: Any) -> None:
        """Change what is known of a job that runs; one that has ended stays as it is."""
        with self._lock:
            if (one := self._states[name]).state == "running":
                steps = {"done": one.total} if what.get("state") == "done" else {}
                self._states[name] = replace(one, **what | steps)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Make a folder that goes afterwards; take away those of services that were killed: nobody holds their locks.

    Who cleans up temporary files leaves a folder alone that is locked.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(OSError):  # it is somebody else's, or in use
            if time.time() - left.lstat().st_mtime > _NEW:
                with _locked(left):
                    shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_FOLDER, ignore_cleanup_errors=True) as name, ExitStack() as held:
        with suppress(OSError):  # a file system without locks
            held.enter_context(_locked(Path(name)))
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; OSError: another process does, or there are no locks."""
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOSYS, "no locks") from error
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _understood(line: bytes) -> dict[str, Any]:
    """Read what a process said; ValueError: it is half a line, or of something else."""
    match json.loads(line):
        case {"result": str(result)}:
            return {"state": "done", "message": "", "result": result}
        case {"error": str(error)}:
            return {"state": "failed", "message": error}
        case {"done": int(done), "total": int(total), "message": str(message)}:
            return {"done": done, "total": total, "message": message}
    raise ValueError(line)
