"""A Python process of ours at the other end of two pipes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

__all__ = ["Child"]


class Child:
    """Imports what this process imports, from the same places, and keeps to one core; it must end when its stdin does.

    Parameters
    ----------
    arguments : sequence of str
        For the interpreter.

    Attributes
    ----------
    stdin, stdout : binary files
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        here = {
            "PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **here},
            start_new_session=True,  # Ctrl-C is for us
        )
        self.stdin, self.stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Stop it at once: it holds nothing that could be lost. Who reads from it finds the end."""
        self._process.kill()

    def end(self) -> None:
        """Stop it, and close the pipes."""
        self.kill()
        with contextlib.suppress(BrokenPipeError):  # a request that it never read
            self.stdin.close()
        self.stdout.close()
        self._log.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel, e.g. on a dead network disk
            self._process.wait(timeout=5)

    def death(self) -> str:
        """Say how it died, with the last line that it wrote to stderr."""
        code = self._process.wait()
        how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
        self._log.seek(0)
        words = [line.strip() for line in self._log.read().decode(errors="replace").split("\n") if line.strip()]
        return f"{how}{': ' + words[-1][:200] if words else ''}"
