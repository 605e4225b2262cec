"""Fuzz the readers of what others may have written: ``python tests/fuzz/run.py --minutes 30``.

Every example has a number, from which alone it is made: ``python tests/fuzz/run.py --target shards --first 4711 --count 1``
does one again. Examples run in a process of their own, whose memory and time are limited; one that crashes, hangs, swells or
raises what it should not is printed with its number, and the run goes on behind it. The exit code is 1 if there was one.
"""

# ruff: noqa: T201 - it speaks to who runs it
from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMORY = 2**29  # bytes beyond what the process has when it begins
SECONDS = 20  # for one example
TARGETS = ("shards", "deltas", "descriptions", "preferences", "tables", "indices", "plans", "catalogues")


def examples(target: str, first: int, count: int) -> None:
    """Run examples of a target, or of some between commas, in this process; which one goes to stdout beforehand."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "store")]
    import targets

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ground = targets.Ground()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process also where C code hangs
        for number in range(first, first + count):
            for name in target.split(","):
                print(name, number, flush=True)
                signal.alarm(SECONDS)
                targets.TARGETS[name](random.Random(f"{name} {number}"), ground)
                signal.alarm(0)
        os.chdir("/")


def supervise(target: str, first: int, count: int) -> list[str]:
    """Run examples in a process of their own; what went wrong."""
    end, found = first + count, []
    while first < end:
        command = [
            sys.executable,
            __file__,
            "--target",
            target,
            "--first",
            f"{first}",
            "--count",
            f"{end - first}",
            "--here",
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode == 0:
            break
        name, last = target, first
        if words := done.stdout.split():
            name, last = words[-2], int(words[-1])
        how = f"signal {-done.returncode}" if done.returncode < 0 else done.stderr.strip()[-1200:]
        found.append(f"{name} {last}: {how}")
        first = last + 1
    return found


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="one of them, or some between commas [default: all in turn]")
    parser.add_argument("--first", type=int, help="number of the first example [default: drawn]")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=0.0, help="go on for so long")
    parser.add_argument("--here", action="store_true", help="in this process")
    asked = parser.parse_args()
    if asked.here:
        examples(asked.target, asked.first, asked.count)
        return
    names = [asked.target] if asked.target else list(TARGETS)
    first = random.SystemRandom().randrange(10**9) if asked.first is None else asked.first
    until, bad, done = time.monotonic() + 60 * asked.minutes, 0, dict.fromkeys(names, 0)
    while True:
        for name in names:
            found = supervise(name, first, asked.count)
            bad, done[name] = bad + len(found), done[name] + asked.count
            print(*found, sep="\n", end="\n" if found else "", flush=True)
        first += asked.count
        if time.monotonic() >= until:
            break
    print(f"{done}: {bad} went wrong")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
