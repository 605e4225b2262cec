"""A map of genres as a file: a picture of its tree, its similarities and its spread, or the numbers as CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from embedstore.errors import ParameterError
from embedstore.exports.base import form_of, plain
from embedstore.search.genres import GenreMap
from embedstore.search.playlists import cell
from embedstore.store import EmbeddingStore
from embedstore.store.disk import new_file
from embedstore.terminal import printable

__all__ = ["save_genre_map"]

_NUMBERED = 20  # most genres whose similarities are written into the picture
_INK, _GREY, _WITHIN, _BETWEEN = "#1a1a1a", "#888888", "#0072b2", "#d55e00"


def save_genre_map(
    store: EmbeddingStore, found: GenreMap, target: str | os.PathLike[str], *, overwrite: bool = False
) -> dict[str, Any]:
    """Write a map of genres.

    Parameters
    ----------
    store : EmbeddingStore
        Whose map it is; nothing is written into it.
    found : GenreMap
    target : str or path
        ``*.png`` or ``*.svg`` for the tree, the similarities of the centres, and, beside each genre, how alike its tracks are;
        ``*.csv`` with a row for each pair of genres, names as `csv_of` writes them; ``*.json`` with all of it.
    overwrite : bool
        Replace the file if there is one.

    Returns
    -------
    dict
        ``target``, the absolute path, and ``bytes``.

    Raises
    ------
    ParameterError
        Another ending; a picture of one genre; the file exists, or would lie in the store.
    StoreError
        The disk refused; no file is left behind.
    """
    target = os.fspath(target)
    data = form_of(target, _FORMS)(found)
    with (
        new_file(target, store.path, overwrite=overwrite) as handle,
        open(handle, "wb", closefd=False) as file,
    ):
        file.write(data)
    return {"target": os.path.abspath(target), "bytes": len(data)}


def _json(found: GenreMap) -> bytes:
    return json.dumps(found.to_dict(), indent=2, allow_nan=False).encode()


def _csv(found: GenreMap) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("genre", "other", "tracks", "other_tracks", "similarity", "distance", "pairs"))
    names, distances = [cell(plain(genre)) for genre in found.genres], found.distances
    for i, name in enumerate(names):
        for j, other in enumerate(names):
            numbers = (found.similarity[i, j], distances[i, j], found.pairs[i, j])
            rows.writerow(
                (
                    name,
                    other,
                    found.counts[i],
                    found.counts[j],
                    *("" if np.isnan(number) else f"{number:.6f}" for number in numbers),
                )
            )
    return text.getvalue().encode()


def _picture(form: str) -> Callable[[GenreMap], bytes]:
    def draw(found: GenreMap) -> bytes:
        from matplotlib import rc_context

        if len(found.genres) < 2:
            raise ParameterError(f"a picture compares two genres or more; the map has {len(found.genres)}")
        out = io.BytesIO()
        style: dict[Any, Any] = {
            "text.parse_math": False,
            "text.color": _INK,
            "axes.edgecolor": _GREY,
        }
        with warnings.catch_warnings(), rc_context(style):
            warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks is drawn as a box
            about = {"metadata": {"Date": None}} if form == "svg" else {"dpi": 160}
            _canvas(found).savefig(out, format=form, **about)
        return out.getvalue()

    return draw


def _canvas(found: GenreMap) -> Any:
    """Draw the tree, the similarities, and the spread side by side, a row for each genre."""
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import dendrogram

    g = len(found.genres)
    side = min(max(3.0, 0.2 * g + 1), 24.0)  # inches; more genres than fit are there, but their names are small
    font = min(9.0, 60 * side / g)
    canvas = Figure(figsize=(1.6 * side + 4.5, side + 1.6), layout="constrained")
    tree, heat, spread = canvas.subplots(1, 3, width_ratios=(0.35, 1, 0.4))
    lines = dendrogram(found.linkage, no_plot=True)
    for x, y in zip(lines["dcoord"], lines["icoord"], strict=True):
        tree.plot(x, np.array(y) / 10 - 0.5, color=_INK, lw=0.9)
    tree.set_xlim(max(found.linkage[:, 2].max(), 1e-6) * 1.04, 0)
    tree.set_xlabel("distance of\nthe centres\n(1 - similarity)", fontsize=8)
    names = [f"{_shortened(genre, 28)} ({count})" for genre, count in zip(found.genres, found.counts, strict=True)]
    shown = heat.imshow(found.similarity, cmap="viridis", aspect="auto", interpolation="nearest")
    heat.set_xticks(range(g), [_shortened(genre, 18) for genre in found.genres], fontsize=font, rotation=90)
    heat.set_yticks(range(g), names, fontsize=font)
    heat.tick_params(length=0)
    middle = (shown.norm.vmin + shown.norm.vmax) / 2
    for (row, column), value in np.ndenumerate(found.similarity if g <= _NUMBERED else np.empty((0, 0))):
        dark = "white" if value < middle else _INK
        heat.text(
            column,
            row,
            f"{value:.2f}".replace("-0.00", "0.00"),
            ha="center",
            va="center",
            fontsize=min(7.0, font),
            color=dark,
        )
    bar = canvas.colorbar(shown, ax=heat, fraction=0.03, pad=0.01)
    bar.set_label("similarity of the centres", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    within = np.diag(found.pairs)
    between = np.fmax.reduce(np.where(np.eye(g, dtype=bool), np.nan, found.pairs), axis=1)
    spread.hlines(range(g), within, between, _GREY, lw=0.9)
    spread.scatter(within, range(g), s=3 * font, c=_WITHIN, marker="o", label="two of its tracks", zorder=3)
    nearest = "one of its, one of the nearest other genre"
    spread.scatter(between, range(g), s=3 * font, c=_BETWEEN, marker="D", label=nearest, zorder=3)
    spread.set_xlabel("mean similarity of two tracks\nby different artists", fontsize=8)
    spread.grid(axis="x", lw=0.5, color="#dddddd")
    spread.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, frameon=False)
    for panel in (tree, spread):
        panel.set_ylim(g - 0.5, -0.5)
        panel.set_yticks([])
        panel.spines[["left", "top", "right"]].set_visible(False)
    for panel in (tree, heat, spread):
        panel.tick_params(axis="x", labelsize=font if panel is heat else 7)
    heat.set_ylim(g - 0.5, -0.5)
    title = f"{g} genres, layer {found.layer}" + f", transform {found.transform}" * (found.transform != "none")
    title += f"; {len(found.left_out)} genres of one track are left out" if found.left_out else ""
    canvas.suptitle(title, fontsize=10, x=0.01, ha="left")
    return canvas


def _shortened(name: str, most: int) -> str:
    name = printable(plain(name))
    return name if len(name) <= most else name[: most // 2 - 1] + "…" + name[-most // 2 :]


_FORMS: dict[str, Callable[[GenreMap], bytes]] = {
    ".png": _picture("png"),
    ".svg": _picture("svg"),
    ".csv": _csv,
    ".json": _json,
}
