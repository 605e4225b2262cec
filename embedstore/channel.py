"""Threads that work, and one that takes what they send: bounded, and stopped together; and one that keeps time."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from embedstore.errors import EncoderError

__all__ = ["WAITING", "Channel", "Stopped", "every", "gather", "plain"]

WAITING = object()
ROOM = 2**22  # numbers that may wait to be taken from `gather`: 16 MB


class Stopped(Exception):  # noqa: N818 - not an error
    """Nobody listens any more."""


class Channel:
    """A queue between threads with room for so many numbers, or for one item that is larger.

    Lets go of a blocked thread once `stop` is set.
    """

    def __init__(self, room: int, stop: threading.Event) -> None:
        self._room, self._stop = room, stop
        self._items: deque[tuple[Any, int]] = deque()
        self._held, self._moved = 0, threading.Condition()

    def send(self, item: Any, size: int = 1) -> None:
        """Put an item in when there is room for it."""
        with self._moved:
            self._wait(lambda: not self._held or self._held + size <= self._room)
            self._items.append((item, size))
            self._held += size
            self._moved.notify_all()

    def receive(self, patience: float = math.inf) -> Any:
        """Take the next item out; `WAITING` if there is none for `patience` seconds."""
        with self._moved:
            if not self._wait(lambda: self._items, patience):
                return WAITING
            item, size = self._items.popleft()
            self._held -= size
            self._moved.notify_all()
            return item

    def _wait(self, ready: Callable[[], object], patience: float = math.inf) -> bool:
        until = time.monotonic() + patience
        while not self._stop.is_set():
            if ready():
                return True
            if (left := until - time.monotonic()) <= 0:
                return False
            self._moved.wait(min(0.2, left))
        raise Stopped


def plain(error: BaseException) -> Exception:
    """Make an error of what would end a thread without a word, such as a plug-in's ``sys.exit``."""
    return error if isinstance(error, Exception) else EncoderError(f"a worker ended by {type(error).__name__} {error}")


def gather(
    workers: Sequence[Callable[[Channel], None]], stop: threading.Event, release: Callable[[], None] = lambda: None
) -> Generator[Any, None, None]:
    """Run each worker in a thread and pass on what all of them send, until the last has returned or one raises.

    None comes about every second in which nothing was sent.

    In the end, however it comes, `stop` is set and `release` called: both together must make every worker return.
    """
    outcomes = Channel(ROOM, stop)

    def run(worker: Callable[[Channel], None]) -> None:
        last: Exception | None = None
        try:
            worker(outcomes)
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            last = plain(error)
        with suppress(Stopped):
            outcomes.send(last)

    threads = [threading.Thread(target=run, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            item = outcomes.receive(patience=1.0)
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield None if item is WAITING else item
    finally:
        stop.set()
        release()
        for thread in threads:
            thread.join()


@contextmanager
def every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call something again and again from a thread of its own, first after `seconds`, until the block ends."""
    over = threading.Event()

    def keep_time() -> None:
        while not over.wait(seconds):
            call()

    thread = threading.Thread(target=keep_time, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
