"""What all benchmarks share: repeats, a header that says on what they ran, a table."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: Timing) -> float:
        """Give this time as a multiple of another's, round by round, and of that the median."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

    def __str__(self) -> str:
        """Median, and the range of all repeats."""
        return f"{show(self.median)} ({show(min(self.seconds))}..{show(max(self.seconds))})"


def show(seconds: float) -> str:
    """Write seconds with three figures and a fitting unit.

    >>> show(0.01234), show(2.5)
    ('12.3 ms', '2.5 s')
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def repeat(run: Callable[[], Any], *, times: int = 5, warm: int = 1, **how: Any) -> Timing:
    """Time a call after `warm` calls that do not count."""
    return side_by_side({"": run}, times=times, warm=warm, **how)[""]


def side_by_side(
    runs: dict[Any, Callable[[], Any]],
    *,
    times: int = 5,
    warm: int = 1,
    before: Callable[[], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, Timing]:
    """Time several calls in turn, round by round, so that a noisy moment of the machine meets them all.

    `before` is called before each of them and not timed.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for turn in range(warm + times):
        for name, run in runs.items():
            if before is not None:
                before()
            began = clock()
            run()
            if turn >= warm:
                seconds[name].append(clock() - began)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def peak(pid: int | str = "self") -> float:
    """Give the most memory that a process has had, in MB; 0 if it is gone, or the system has no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)


def header(*packages: str) -> str:
    """Say on what machine and with which versions this ran."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} (not installed)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {platform.system()}, Python {platform.python_version()}, {', '.join(found)}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - not a path of ours
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def verdict(target: str, measured: float, *, at_least: float | None = None, at_most: float | None = None) -> list[str]:
    """Make a row of `VERDICTS`: a target, what was measured, and whether it is reached."""
    if at_least is not None:
        bound, reached = f">= {at_least:g}", measured >= at_least
    else:
        bound, reached = f"<= {at_most:g}", measured <= at_most
    return [target, bound, f"{measured:.3g}", "yes" if reached else "NO"]


VERDICTS = ("target", "", "measured", "reached")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Make a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
