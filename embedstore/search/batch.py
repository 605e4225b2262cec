"""Many queries one after the other; one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from embedstore.errors import EmbedstoreError
from embedstore.search.reading import Line
from embedstore.search.searcher import Searcher
from embedstore.search.values import Filter, SearchResult, Shape

__all__ = ["Answer", "search_lines"]


@dataclass(frozen=True)
class Answer:
    """What became of a query.

    Attributes
    ----------
    text : str
        As it was asked, or its name.
    result : SearchResult or None
        None: it failed.
    error : str
        Why.
    line : int
        Of the file that it comes from, the first is 1; 0: it comes from no file.
    """

    text: str
    result: SearchResult | None
    error: str = ""
    line: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        said = {"line": self.line, "name": self.text} if self.line else {}
        return {**said, **(self.result.to_dict() if self.result else {"error": self.error})}


def search_lines(
    searcher: Searcher,
    lines: Iterable[Line],
    filter: Filter | None = None,  # noqa: A002 - what it is
    shape: Shape | None = None,
) -> list[Answer]:
    """Answer each query of a file; see `read_queries`.

    Raises
    ------
    EmbedstoreError
        As `Searcher.search`, of a query that comes from no file.
    """
    return [_answer(searcher, line, filter, shape) for line in lines]


def _answer(searcher: Searcher, line: Line, wanted: Filter | None, shape: Shape | None) -> Answer:
    if line.query is None:
        return Answer(line.text, None, line.error, line.number)
    try:
        return Answer(line.text, searcher.search(line.query, wanted, shape), "", line.number)
    except EmbedstoreError as error:
        if not line.number:
            raise
        return Answer(line.text, None, str(error), line.number)
