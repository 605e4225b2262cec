"""A collection in Milvus: a server at an address, or Milvus Lite, which keeps it in a folder, inside this process."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from embedstore.errors import EncoderMismatchError, ParameterError, StoreError
from embedstore.exports.base import Column, Content
from embedstore.registry import require
from embedstore.store.disk import outside

__all__ = ["write"]

_INSTALL = "pip install 'embedstore-mir[milvus]'"
_LONGEST, _MOST = 65_535, 4_096  # bytes in a text, texts in a list: what Milvus takes


def write(content: Content, target: str, *, collection: str | None = None) -> dict[str, Any]:
    """Bring a collection up to date: rows by track key, cosine similarity; rows of tracks that are gone are deleted.

    Fields: ``key`` (INT64, primary), ``vector`` (FLOAT_VECTOR), ``track_id``, ``path``, ``album``, ``title``, ``split`` (VARCHAR),
    ``genres``, ``artists`` (ARRAY of VARCHAR), ``seconds`` (DOUBLE), ``year`` (INT64, 0 if unknown), ``exported`` (INT64, the
    time of the last export that held the track, in nanoseconds since 1970). Which layer of which store it holds stands in the collection's property
    ``embedstore``. Rows are written again as they are read: an export that was cut short is completed by the next.
    """
    if len(content.columns) != 1:
        names = ", ".join(column.name for column in content.columns)
        raise ParameterError(
            f"a Milvus collection has one layer; got {names}: choose one with --layer, and export again for the next"
        )
    (column,) = content.columns
    name = collection or f"embedstore_{column.name}"
    uri = _address(content, target)
    milvus = require("pymilvus", _INSTALL)
    if "://" not in uri:
        require("milvus_lite", _INSTALL)
    rows, deleted, stamp = 0, 0, time.time_ns()
    older = f"exported != {stamp}"
    with _explained(f"cannot export to {name} at {uri}", milvus.MilvusException):
        client = milvus.MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""))
        try:
            _open(client, milvus.DataType, name, column, _identity(content, column))
            # a collection of an earlier version has no split or year
            fields = {field["name"] for field in client.describe_collection(name)["fields"]}
            for piece in content.pieces():
                found = ({**row, "exported": stamp} for row in _rows(piece, column))
                client.upsert(name, [{field: row[field] for field in fields} for row in found])
                rows += len(piece["key"])
            if not content.store.problems:  # what a damaged shard holds is missing now, and back after the next build
                deleted = client.query(name, filter=older, output_fields=["count(*)"])[0]["count(*)"]
                client.delete(name, filter=older)
            client.flush(name)
        finally:
            client.close()
    sent = 4 * column.dim * rows
    return {"target": uri, "collection": name, "rows": rows, "bytes": sent, "deleted": deleted}


def _address(content: Content, target: str) -> str:
    if "://" in target:
        if "@" in urlsplit(target).netloc:
            raise ParameterError("an address with a password in it would be shown to others; put it into MILVUS_TOKEN")
        return target
    if not target.endswith(".db"):
        raise ParameterError(
            f"{target!r} is neither the address of a Milvus server (http://host:19530) nor a folder *.db"
        )
    return str(outside(target, content.store.path))


def _identity(content: Content, column: Column) -> dict[str, str]:
    """Say what a collection holds, so that no other is mixed with it."""
    store = content.store
    return {"recipe": store.fingerprint, "store": store.id, "layer": column.name}


def _open(client: Any, types: Any, name: str, column: Column, identity: dict[str, str]) -> None:
    """Make the collection, or check that it is the one."""
    if client.has_collection(name):
        info = client.describe_collection(name)
        found = _read(info.get("properties", {}).get("embedstore"))
        differ = [field for field in identity if found.get(field) != identity[field]]
        if differ:
            what = f"another {' and '.join(differ)}" if found else "something that is not ours"
            raise EncoderMismatchError(f"the collection {name} holds {what}; give another name with --collection")
        client.load_collection(name)
        return
    text = {"datatype": types.VARCHAR, "max_length": _LONGEST}
    texts = {"datatype": types.ARRAY, "element_type": types.VARCHAR, "max_capacity": _MOST, "max_length": _LONGEST}
    schema = client.create_schema(auto_id=False)
    schema.add_field("key", types.INT64, is_primary=True)
    schema.add_field("vector", types.FLOAT_VECTOR, dim=column.dim)
    schema.add_field("seconds", types.DOUBLE)
    schema.add_field("year", types.INT64)
    schema.add_field("exported", types.INT64)
    for field in ("track_id", "path", "album", "title", "split"):
        schema.add_field(field, **text)
    for field in ("genres", "artists"):
        schema.add_field(field, **texts)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
    client.create_collection(
        name,
        schema=schema,
        index_params=index,
        consistency_level="Strong",
        properties={"embedstore": json.dumps(identity)},
    )


def _read(text: str | None) -> dict[str, str]:
    try:
        found = json.loads(text or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rows(piece: dict[str, Any], column: Column) -> Iterator[dict[str, Any]]:
    for i, key in enumerate(piece["key"].tolist()):
        yield {
            "key": key,
            "vector": piece[column.name][i],
            "seconds": float(piece["seconds"][i]),
            "year": int(piece["year"][i]),
            **{field: _cut(piece[field][i]) for field in ("track_id", "path", "album", "title", "split")},
            **{field: [_cut(text) for text in piece[field][i][:_MOST]] for field in ("genres", "artists")},
        }


def _cut(text: str) -> str:
    return text if len(text) < _LONGEST // 4 else text.encode()[:_LONGEST].decode("utf-8", "ignore")


class _Heard(logging.Handler):
    """Keeps the reason that a library logs, and does not raise."""

    reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.reason = str(record.exc_info[1])


@contextmanager
def _explained(doing: str, kind: type[Exception]) -> Iterator[None]:
    """Say in one line what Milvus refused; its libraries log tracebacks, which are held back."""
    heard, loggers = _Heard(), [logging.getLogger(name) for name in ("pymilvus", "milvus_lite")]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.handlers, logger.propagate = [heard], False
        yield
    except kind as error:
        reason = " ".join(f"{getattr(error, 'message', error)}".split())
        more = f" ({heard.reason})" if heard.reason not in reason else ""
        raise StoreError(f"{doing}: {reason}{more}") from error
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
