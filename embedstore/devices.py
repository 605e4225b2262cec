"""Encoders on one device, or on several: then each has a process of its own.

A child loads the encoder on its device, runs lanes of its own and sends outcomes back; the parent hands out the files one
by one and has no network itself. Messages are pickles: they come from the same program on the same machine.

========================  =========================================
parent says               child says
========================  =========================================
(load, keep_windows)      (card, recipe)
(known, options)          outcomes; "next" when it wants a file; "done"
a file, or None           (answers "next")
                          an exception, in place of anything
========================  =========================================
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from embedstore.channel import Channel, gather
from embedstore.child import Child
from embedstore.encoders import Encoder, recipe_of
from embedstore.errors import EmbedstoreError, EncoderError, EncoderMismatchError, ParameterError
from embedstore.lanes import MOST_DECODERS, Known, Outcome, cores, run_lanes
from embedstore.types import AudioFile, EncoderCard

__all__ = ["Crew", "check_agreement", "name_devices", "open_crew"]

Load = Callable[[], Encoder]


@dataclass(frozen=True)
class Crew:
    """Equal encoders, ready to work.

    Attributes
    ----------
    card : EncoderCard
    recipe : dict
    run : callable
        `run_lanes` without its `encoder` and `keep_windows`.
    """

    card: EncoderCard
    recipe: dict[str, Any]
    run: Callable[..., Generator[Outcome | None, None, None]]


def name_devices(device: str) -> list[str]:
    """Read a device option that may name several.

    >>> name_devices("cuda:0,cuda:1")
    ['cuda:0', 'cuda:1']

    Raises
    ------
    ParameterError
        A place is empty, or there is no CUDA device for ``"cuda:all"``.
    """
    if device == "cuda:all":
        import torch

        if not (count := torch.cuda.device_count()):
            raise ParameterError("there is no CUDA device here for 'cuda:all'; 'auto' takes what there is")
        return [f"cuda:{number}" for number in range(count)]
    names = [name.strip() for name in device.split(",")]
    if not all(names):
        raise ParameterError(f"the list of devices has an empty place: {device!r}; write cuda:0,cuda:1 or cuda:all")
    return names


@contextmanager
def open_crew(loaders: Sequence[tuple[str, Load]], *, keep_windows: bool = False) -> Iterator[Crew]:
    """Load an encoder here, or one on each of several devices in a process of its own; the end of the block stops those.

    Parameters
    ----------
    loaders : sequence of (device, callable)
        The callables must survive pickling if there are several.
    keep_windows : bool

    Raises
    ------
    EncoderMismatchError
        The devices make different encoders of the same options.
    EncoderError
        A process died; the message names its device.
    """
    if len(loaders) == 1:
        encoder = loaders[0][1]()
        run = partial(run_lanes, encoder=encoder, keep_windows=keep_windows)
        yield Crew(encoder.card, recipe_of(encoder, keep_windows=keep_windows), run)
        return
    with ExitStack() as stack:
        children = []
        for device, load in loaders:
            children.append(_Device(device))
            stack.callback(children[-1].end)
            children[-1].send((load, keep_windows))
        (card, recipe), *others = [child.receive() for child in children]
        check_agreement(
            (children[0].device, recipe),
            [(child.device, other) for child, (_, other) in zip(children[1:], others, strict=True)],
        )
        yield Crew(card, recipe, partial(_run, children))


def check_agreement(first: tuple[str, Mapping[str, Any]], others: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse encoders whose recipes differ; each comes with the name of its place.

    Raises
    ------
    EncoderMismatchError
    """
    place, recipe = first
    for elsewhere, other in others:
        if differ := [name for name in {**recipe, **other} if recipe.get(name) != other.get(name)]:
            raise EncoderMismatchError(
                f"the encoder on {elsewhere} is not the one on {place}: they differ in {', '.join(differ)}; "
                "ask for what both can do, or for devices of one kind"
            )


def _run(
    children: Sequence[_Device], files: Sequence[AudioFile], known: Known, *, jobs: int | None, timeout: float
) -> Generator[Outcome | None, None, None]:
    """Do what `run_lanes` does, on all devices."""
    lock, todo = threading.Lock(), iter(files)
    share = (jobs or min(cores(), MOST_DECODERS * len(children))) // len(children)
    options = {"jobs": max(1, share), "timeout": timeout}

    def serve(child: _Device, outcomes: Channel) -> None:
        child.send((known, options))
        while (message := child.receive()) != "done":
            if message == "next":
                with lock:
                    file = next(todo, None)
                child.send(file)
            else:
                outcomes.send(message, message.weight)

    def release() -> None:
        for child in children:
            child.kill()

    return gather([partial(serve, child) for child in children], threading.Event(), release)


class _Device(Child):
    """The process that has one device."""

    def __init__(self, device: str) -> None:
        super().__init__(["-c", "from embedstore.devices import main; main()"])
        self.device = device

    def send(self, message: Any) -> None:
        with suppress(BrokenPipeError):  # it died: `receive` finds out why
            pickle.dump(message, self.stdin)
            self.stdin.flush()

    def receive(self) -> Any:
        try:
            message = pickle.load(self.stdout)  # noqa: S301 - from our own process
        except (EOFError, pickle.UnpicklingError):
            raise EncoderError(
                f"the encoder's process on {self.device} died ({self.death()}); what was finished is stored, and the same "
                "command goes on from here"
            ) from None
        if isinstance(message, EmbedstoreError):
            raise message
        return message


def main() -> None:
    """Be the process of one device, until there is no file left or stdin ends."""
    try:
        _serve()
    except BaseException:  # noqa: BLE001 - the parent reads the last line of it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # the interpreter's own end would wait for the thread that reads stdin


def _serve() -> None:
    output, lock = os.fdopen(os.dup(1), "wb"), threading.Lock()
    os.dup2(2, 1)  # a library that prints must not break the conversation
    heard: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(heard,), daemon=True).start()

    def say(message: Any) -> None:
        with lock:
            pickle.dump(message, output)
            output.flush()

    def ask() -> AudioFile | None:
        say("next")
        file: AudioFile | None = heard.get()
        return file

    try:
        load, keep_windows = heard.get()
        encoder = load()
        say((encoder.card, recipe_of(encoder, keep_windows=keep_windows)))
        known, options = heard.get()
        for outcome in run_lanes(iter(ask, None), encoder, known, keep_windows=keep_windows, **options):
            if outcome is not None:
                say(outcome)
        say("done")
    except EmbedstoreError as error:
        say(error)


def _listen(heard: SimpleQueue[Any]) -> None:
    """Pass on what the parent says; when it is gone, so are we, whatever the network is doing."""
    try:
        while True:
            heard.put(pickle.load(sys.stdin.buffer))  # noqa: S301 - from our own parent
    finally:
        os._exit(0)
