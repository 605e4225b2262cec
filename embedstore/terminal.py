"""How results reach people and machines: tables and progress on a terminal, quiet lines in a log, JSON on request.

Colours and bars appear only on a terminal. Names from files are printed with control characters made visible, so that
no file name can move the cursor or set a title.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from embedstore.channel import every

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "below_here",
    "branches",
    "clock",
    "console",
    "counts",
    "hms",
    "printable",
    "progress_bar",
    "say",
    "show_exactly",
    "show_json",
    "show_table",
    "size",
]

LOG_EVERY = 60.0  # seconds between progress lines when the output is no terminal


def printable(text: object) -> str:
    r"""Make control characters, terminal escapes and undecodable bytes of a name visible.

    >>> printable("a\x1b[31mb\nc")
    'a\\x1b[31mb\\nc'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in str(text)
    )


def say(*lines: str, err: bool = False) -> None:
    """Print lines on stdout or stderr; a line break inside one of them is made visible, as all control characters are."""
    print("\n".join(map(printable, lines)), file=sys.stderr if err else sys.stdout, flush=True)


def below_here(path: str) -> str:
    """Shorten a path that lies in the current folder; people know where they are."""
    here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118 - text in, text out
    return path.removeprefix(here)


def size(n_bytes: float) -> str:
    """Write bytes for people.

    >>> size(372_729_461), size(12)
    ('372.7 MB', '12 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def hms(seconds: float) -> str:
    """Write a duration for people.

    >>> hms(4.2), hms(75), hms(7325)
    ('4.2 s', '1 min 15 s', '2 h 02 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float) -> str:
    """Write a moment as people say it.

    >>> clock(83), clock(3600.25)
    ('1:23', '60:00.25')
    """
    minutes, rest = divmod(round(seconds, 2), 60)
    return f"{minutes:.0f}:{rest:05.2f}".removesuffix(".00")


def counts(names: dict[str, int], most: int = 20) -> str:
    """Write name counts in one line.

    >>> counts({"rock": 3, "jazz": 2}, most=1)
    'rock 3 and 1 more'
    """
    shown = ", ".join(f"{printable(name)} {count}" for name, count in list(names.items())[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def branches(joins: Sequence[Sequence[float]], width: int = 32) -> list[str]:
    r"""Draw a tree with its leaves in order, a line for each, and its root on the right.

    Parameters
    ----------
    joins : sequence of (left, right, height, ...)
        As scipy's linkage: leaves are 0..n - 1, what the i-th join makes is n + i; a join is no lower than those it joins.
    width : int
        Columns.

    Examples
    --------
    >>> print(*branches([[0, 1, 0.2], [2, 3, 0.6]], 6), sep="\n")
    ╶─┐
    ╶─┴──┐
    ╶────┘
    """
    grid = [[0] * width for _ in range(len(joins) + 1)]  # of the lines in a cell: 1 to the left, 2 right, 4 up, 8 down
    ends = [(row, 0) for row in range(len(grid))]  # where the line of each leaf or join goes on
    top = max((height for _, _, height, *_ in joins), default=0) or 1
    for left, right, height, *_ in joins:
        column = round(height / top * (width - 1))
        rows = sorted(ends[int(side)][0] for side in (left, right))
        for row, start in (ends[int(left)], ends[int(right)]):
            for place in range(start, column):
                grid[row][place] |= 2
                grid[row][place + 1] |= 1
        for row in range(*rows):
            grid[row][column] |= 8
            grid[row + 1][column] |= 4
        ends.append(((sum(rows) + 1) // 2, column))
    return ["".join(" ╴╶─╵┘└┴╷┐┌┬│┤├┼"[cell] for cell in line).rstrip() for line in grid]


def show_json(document: object, stream: TextIO | None = None) -> None:
    """Print one JSON document on stdout, or on `stream`."""
    print(json.dumps(document, indent=2, allow_nan=False), file=stream)


def show_exactly(text: str) -> None:
    """Print text that another program reads, byte for byte; on a terminal, a person sees it as `say` would print it."""
    if sys.stdout.isatty():
        say(*text.split("\n")[:-1])
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


def console(*, err: bool = False) -> Console:
    """Give the rich console; off a terminal it prints plain text and never wraps a table to 80 columns."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(file=stream, highlight=False, soft_wrap=True, width=None if stream.isatty() else 1000)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table; columns whose name ends with ``>`` are set to the right; without names there is no header."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = console()
    table = Table(box=box.SIMPLE_HEAD if any(columns) else None, show_header=any(columns), pad_edge=False)
    for name in columns:
        short = name in ("artist", "title")  # the first to give way on a narrow terminal
        table.add_column(
            Text(printable(name.removesuffix(">"))),
            justify="right" if name.endswith(">") else "left",
            overflow="ellipsis" if short else "fold",
            no_wrap=short or name in ("rank>", "score>"),
            max_width=min(36, max(8, (out.width - 60) // 3)) if short else None,
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with out.capture() as page:
        if title:
            out.print(Text(printable(title), style="bold"))
        out.print(table)
    print("\n".join(line.rstrip() for line in page.get().splitlines()))  # noqa: T201 - no trailing blanks in a log


@contextmanager
def progress_bar(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """Show how far a task is: a bar with rate and time left on a terminal, else one line a minute, on stderr.

    Yields
    ------
    callable
        To be called with (done, total, remark).
    """
    if quiet:
        yield lambda _done, _total, _remark: None
    elif sys.stderr.isatty():
        yield from _bar(what)
    else:
        yield from _lines(what)


def _bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[remark]}", markup=False),
        console=console(err=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None, remark="")

        def tell(done: int, total: int, remark: str) -> None:
            bar.update(task, completed=done, total=total, remark=printable(remark))

        yield tell


def _lines(what: str) -> Iterator[Callable[[int, int, str], None]]:
    began, state = time.monotonic(), (0, 0, "")

    def tell(done: int, total: int, remark: str) -> None:
        nonlocal state
        state = done, total, remark

    def line() -> None:
        done, total, remark = state
        passed = time.monotonic() - began
        left = f"{hms(passed / done * (total - done))} left" if done else f"nothing finished after {hms(passed)}"
        say(f"{what}: {done} of {total or '?'}, {left} {remark}".rstrip(), err=True)

    with every(LOG_EVERY, line):  # also when nothing gets done for long, as in loading or in a long track
        yield tell
