"""Workers on the machines of a Ray cluster, which load the encoder once and write their shards themselves.

What travels is small: file names, what is known already (once a worker), and what became of each file. A worker that
dies is replaced, and its shard goes to whoever is free; what it wrote of it is not done again.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedstore.devices import check_agreement
from embedstore.errors import EmbedstoreError, EncoderError, ParameterError
from embedstore.lanes import MOST_DECODERS, Known, Outcome
from embedstore.options import EncoderOptions
from embedstore.plan import Plan, PlannedShard
from embedstore.profile import Stages
from embedstore.registry import require
from embedstore.shards import run_planned
from embedstore.store import EmbeddingStore
from embedstore.types import EncoderCard

__all__ = ["Workers", "open_workers"]

LARGEST = 64  # files in a shard: what one commit holds
TRIES = 3  # of one shard: a file that kills each worker that meets it ends the build
PATIENCE = 10.0  # seconds for killed workers to let go of the store


class _Worker:
    """A process of Ray's; it answers with errors instead of raising them, as some do not survive the journey."""

    def open(
        self, folders: list[str], options: EncoderOptions, plan: tuple[dict[str, Any] | None, bool]
    ) -> tuple[str, EncoderCard, dict[str, Any]] | EmbedstoreError:
        """Load the encoder; say where we are, and what it is."""
        sys.path += [folder for folder in folders if folder not in sys.path]  # where plug-ins are
        remembered, keep_windows = plan
        try:
            self._crew = ExitStack().enter_context(options.crew(remembered, keep_windows=keep_windows))
        except EmbedstoreError as error:
            return type(error)(f"the worker on {socket.gethostname()}: {error}")
        return f"{socket.gethostname()}, process {os.getpid()}", self._crew.card, self._crew.recipe

    def know(self, store: str, plan: str, known: Known, options: dict[str, Any]) -> None:
        """Take what all shards have in common."""
        self._store, self._plan, self._known, self._options = store, plan, known, options

    def run(self, shard: PlannedShard) -> tuple[list[Outcome], float] | EmbedstoreError:
        """Take a shard's files into the store; say what became of them, and how long writing took."""
        stages = Stages()
        try:
            outcomes = run_planned(
                shard, self._store, self._crew, self._known, self._plan, stages=stages, **self._options
            )
            return [outcome for outcome in outcomes if outcome is not None], stages.storing
        except EmbedstoreError as error:
            return type(error)(f"the worker on {socket.gethostname()}: {error}")


class Workers:
    """Made by `open_workers`.

    Attributes
    ----------
    card : EncoderCard
    recipe : dict
    """

    def __init__(self, ray: Any, options: EncoderOptions, plan: Plan, jobs: int | None) -> None:
        count, needs, options = _share_out(ray.nodes(), options, jobs)
        self._ray, self._jobs = ray, needs["num_cpus"]
        self._class = ray.remote(max_restarts=0, **needs)(_Worker)
        self._opening = (list(sys.path), options, (plan.remembered, plan.keep_windows))
        self._flying: dict[Any, tuple[Any, PlannedShard | None]] = {}  # answers that are awaited; None: to `open`
        self._losses: Counter[int] = Counter()
        self._idle: list[Any] = []
        for _ in range(min(count, len(plan.todo) or 1)):
            self._hire()

    def meet(self) -> None:
        """Wait for the first of them, and believe what its encoder is."""
        while not self._idle:
            for worker, _, answer in self._answers():
                if worker is not None:
                    self._idle.append(worker)
                    self._first, self.card, self.recipe = answer
                    break

    def _hire(self) -> None:
        worker = self._class.remote()
        self._flying[worker.open.remote(*self._opening)] = worker, None

    def _check(self, answer: tuple[str, EncoderCard, dict[str, Any]]) -> None:
        check_agreement((self._first, self.recipe), [(answer[0], answer[2])])

    def _answers(self) -> Iterator[tuple[Any, PlannedShard | None, Any]]:
        """Wait a second for answers; of a worker that died, its shard and None for both."""
        for one in self._ray.wait(list(self._flying), timeout=1.0)[0]:
            worker, shard = self._flying.pop(one)
            try:
                answer = self._ray.get(one)
            except self._ray.exceptions.RayTaskError as error:
                words = str(error).strip().splitlines()
                raise EncoderError(f"a worker failed: {words[-1]}; what was finished is stored") from error
            except self._ray.exceptions.RayError as error:
                self._mourn(worker, shard, error)
                worker = answer = None
            if isinstance(answer, EmbedstoreError):
                raise answer
            yield worker, shard, answer

    def _mourn(self, worker: Any, shard: PlannedShard | None, error: Exception) -> None:
        """Replace a worker that was lost, unless that happened too often."""
        self._ray.kill(worker)  # it may only be out of reach
        number = shard.number if shard else 0
        self._losses[number] += 1
        if self._losses[number] == TRIES:
            what = (
                f"over the shard that begins with {shard.files[0].file.full_path}" if shard else "loading the encoder"
            )
            why = " ".join(str(error).split())[-300:]
            raise EncoderError(
                f"{TRIES} workers died {what}; what was finished is stored, and the same command goes on from here ({why})"
            ) from error
        self._hire()

    def run(
        self, store: EmbeddingStore, plan: Plan, known: Known, *, timeout: float, stages: Stages
    ) -> Generator[Outcome | None, None, None]:
        """Hand out all there is to do; outcomes come shard by shard, without vectors; None about every second.

        Raises
        ------
        EncoderMismatchError
            A worker has another encoder than the others.
        EncoderError
            Workers died over and over.
        """
        hands = len(self._flying) + len(self._idle)
        size = min(LARGEST, math.ceil(len(plan.todo) / (4 * hands)))  # small enough that nobody waits long for the last
        queue = deque(plan.shards(max(1, size)))
        common = (
            str(store.path),
            f"ray-{secrets.token_hex(16)}",
            self._ray.put(known),
            {"jobs": self._jobs, "timeout": timeout},
        )
        try:
            for worker in self._idle:
                worker.know.remote(*common)
            while queue or any(shard for _, shard in self._flying.values()):
                while queue and self._idle:
                    worker, next_one = self._idle.pop(), queue.popleft()
                    self._flying[worker.run.remote(next_one)] = worker, next_one
                yield None
                for worker, shard, answer in self._answers():
                    if worker is None:
                        queue.extendleft([shard] if shard else [])
                        continue
                    if shard is None:
                        self._check(answer)
                        worker.know.remote(*common)
                    else:
                        outcomes, storing = answer
                        stages.storing += storing
                        yield from outcomes
                    self._idle.append(worker)
        finally:
            self.end()

    def end(self) -> None:
        """Stop all workers, and wait until they have let go of the store."""
        with suppress(Exception):  # the cluster may be gone
            for worker in (*self._idle, *(worker for worker, _ in self._flying.values())):
                self._ray.kill(worker)
            busy = [answer for answer, (_, shard) in self._flying.items() if shard]
            self._ray.wait(busy, num_returns=len(busy), timeout=PATIENCE)
        self._idle, self._flying = [], {}


def _share_out(
    nodes: list[dict[str, Any]], options: EncoderOptions, jobs: int | None
) -> tuple[int, dict[str, int], EncoderOptions]:
    """Say how many workers the machines of a cluster have room for, what each needs, and which device it takes."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = [machine for machine in machines if machine.get("GPU", 0) >= 1]
    if options.device not in ("auto", "cpu", "cuda"):
        raise ParameterError(
            f"Ray gives each worker a device of its own; say --device cpu, cuda or auto instead of {options.device!r}"
        )
    if options.device == "cuda" and not gpus:
        raise ParameterError("no machine of the Ray cluster has a GPU; --device cpu or auto takes what there is")
    if gpus and options.device != "cpu":
        share = min(int(machine.get("CPU", 0) // machine["GPU"]) for machine in gpus)
        needs = {"num_gpus": 1, "num_cpus": jobs or max(1, min(MOST_DECODERS, share))}
        room = [min(machine["GPU"], machine.get("CPU", 0) // needs["num_cpus"]) for machine in gpus]
    else:
        needs = {"num_cpus": jobs or 1}
        room = [machine.get("CPU", 0) // needs["num_cpus"] for machine in machines]
    if not (count := int(sum(room))):
        most = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
        raise ParameterError(
            f"a worker with {needs['num_cpus']} files at a time needs so many CPUs; the largest machine of the Ray cluster "
            f"has {most}: ask for fewer --jobs"
        )
    return count, needs, replace(options, device="cuda" if "num_gpus" in needs else "cpu")


@contextmanager
def open_workers(
    options: EncoderOptions, plan: Plan, *, jobs: int | None = None, address: str | None = None
) -> Iterator[Workers]:
    """Reach a cluster, or start one on this machine, and have a worker load the encoder on each core or GPU.

    Parameters
    ----------
    options : EncoderOptions
    plan : Plan
        There are never more workers than files.
    jobs : int, optional
        Files at a time of one worker.
    address : str, optional
        See `embedstore.build`.

    Raises
    ------
    MissingDependencyError
        Ray is not installed.
    ParameterError
        No cluster answers, or it has no room for a worker.
    EncoderError
        A worker cannot load the encoder; the message names its machine.
    """
    ray = require("ray", "pip install 'embedstore-mir[ray]'")
    if options.model and Path(options.model).exists():
        options = replace(options, model=os.path.abspath(options.model))
    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            _connect(ray, address)
        workers = Workers(ray, options, plan, jobs)
        stack.callback(workers.end)
        workers.meet()
        yield workers


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that somebody encodes music
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do anyway, and warns of
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    host, _, port = (address or os.environ.get("RAY_ADDRESS", "")).rpartition(":")
    try:
        if port.isdecimal() and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        ray.init(
            address or os.environ.get("RAY_ADDRESS") or "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        place = f" at {address or host}" if address or host else ""
        raise ParameterError(
            f"no Ray cluster answers{place}: {why}; start one with: ray start --head; one that asks for a token needs "
            "RAY_AUTH_MODE=token here, too"
        ) from error
    finally:
        with suppress(AttributeError):  # its paragraphs about each death; we say in a line what matters
            ray._private.worker.print_to_stdstream = lambda *_, **__: None  # noqa: SLF001 - Ray has no option for it
        if ours:
            signal.signal(signal.SIGTERM, before)  # Ray's own would end us without a word
