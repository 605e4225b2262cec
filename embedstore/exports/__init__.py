"""The store's content in the forms of others: one HDF5 file, a Parquet file, a Milvus collection; one file per form."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from embedstore.errors import ParameterError
from embedstore.exports.base import Content, ExportReport
from embedstore.registry import resolve, unknown_name
from embedstore.store import EmbeddingStore

__all__ = ["BUILTIN", "ExportReport", "export"]

BUILTIN = {
    "h5": "embedstore.exports.h5:write",
    "parquet": "embedstore.exports.parquet:write",
    "milvus": "embedstore.exports.milvus:write",
}
_ENDINGS = {".h5": "h5", ".hdf5": "h5", ".parquet": "parquet", ".db": "milvus"}
_OPTIONS = {"collection": {"milvus"}, "float32": {"h5"}, "overwrite": {"h5", "parquet"}}


def export(
    store: EmbeddingStore,
    target: str | os.PathLike[str],
    to: str | None = None,
    *,
    layers: Sequence[int | str] = (),
    collection: str | None = None,
    float32: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write the vectors of all tracks, and what is known about these, for other programs.

    Parameters
    ----------
    store : EmbeddingStore
    target : str or path
        Of the new file; for Milvus the address of a server (``"http://host:19530"``; its token comes from the
        environment variable ``MILVUS_TOKEN``) or a folder ``"name.db"`` for Milvus Lite.
    to : {"h5", "parquet", "milvus"}, optional
        Default: what the end of `target` says.
    layers : sequence of int or str
        Numbers or names, ``"mean"`` for the mean over layers, ``"all"``. Default: all; for Milvus, whose collections
        have one layer, the encoder's choice.
    collection : str, optional
        Milvus: name of the collection, new or of an earlier export of the same layer of this store, which is brought up
        to date. Default: ``"embedstore_layer_05"`` or what the layer is.
    float32 : bool
        h5: write float32, for programs that read no float16.
    overwrite : bool
        h5, parquet: replace the file if there is one.
    progress : callable, optional
        Called with (tracks done, tracks in all).

    Raises
    ------
    ParameterError
        The store is empty; the file exists; the target and its options do not fit together.
    UnknownNameError
        No such form or layer.
    MissingDependencyError
        The library for this form is not installed; holds the install line.
    StoreError
        The disk or the server refused. No file is left behind; a collection is completed by the next export.
    EncoderMismatchError
        The collection holds something else.

    Examples
    --------
    >>> export(EmbeddingStore.open("my-store"), "music.h5", layers=[5, 6]).rows  # doctest: +SKIP
    112
    """
    target = os.fspath(target)
    to = to or _form(target)
    if to not in BUILTIN:
        raise unknown_name("form of export", to, BUILTIN)
    given = {"collection": collection, "float32": float32, "overwrite": overwrite}
    given = {name: value for name, value in given.items() if value}
    for name in given:
        if to not in _OPTIONS[name]:
            raise ParameterError(
                f"{name} is an option of an export to {' and '.join(sorted(_OPTIONS[name]))}, not {to}"
            )
    if not len(store):
        raise ParameterError(f"the store {store.path} holds no tracks; build first")
    layers = layers or (["all"] if to != "milvus" else [store.card.default_layer])
    began = time.perf_counter()
    content = Content.of(store, layers, progress)
    done = content.written(resolve("exports", BUILTIN, to), target, **given)
    names = tuple(column.name for column in content.columns)
    return ExportReport(to=to, layers=names, seconds=time.perf_counter() - began, problems=store.problems, **done)


def _form(target: str) -> str:
    for ending, form in _ENDINGS.items():
        if target.endswith(ending):
            return form
    if "://" in target:
        return "milvus"
    raise ParameterError(f"{target!r} does not say what to write: name it *{', *'.join(_ENDINGS)}, or give --to")
