"""A Parquet file for pandas, Polars or DuckDB: a row for each track."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from embedstore.exports.base import Content
from embedstore.registry import require
from embedstore.store.disk import new_file

__all__ = ["write"]


def write(content: Content, target: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the file, a row group for each piece.

    Columns: ``track_id``, ``path``, ``album``, ``title``, ``split`` (string), ``key`` (int64), ``seconds`` (double),
    ``year`` (int32, 0 if unknown), ``genres`` and ``artists`` (list of string), and ``layer_NN`` or ``layer_mean``
    (fixed-size list of float) for each layer. The metadata of the schema says where the vectors come from.
    """
    install = "pip install 'embedstore-mir[parquet]'"
    pa, parquet = require("pyarrow", install), require("pyarrow.parquet", install)
    texts, lists = pa.string(), pa.list_(pa.string())
    known = {"key": pa.int64(), "track_id": texts, "path": texts, "seconds": pa.float64(), "genres": lists}
    known |= {"artists": lists, "album": texts, "title": texts, "split": texts, "year": pa.int32()}
    layers = {column.name: pa.list_(pa.float32(), column.dim) for column in content.columns}
    schema = pa.schema(known | layers, metadata=content.about())
    # split bytes: the float32 of float16 values then take less room than the float16 would
    how = {"compression": "zstd", "use_dictionary": ["genres", "artists", "album", "split"]}
    leaves = [f"{name}.list.element" for name in layers]
    rows = 0
    with new_file(target, content.store.path, overwrite=overwrite) as handle, open(handle, "wb", closefd=False) as file:
        with parquet.ParquetWriter(file, schema, use_byte_stream_split=leaves, **how) as writer:
            for piece in content.pieces():
                arrays = []
                for field in schema:
                    values = piece[field.name]
                    if field.name in layers:
                        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
                        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
                    else:
                        arrays.append(pa.array(values, field.type))
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                rows += len(piece["key"])
        file.flush()
        size = os.fstat(handle).st_size
    return {"target": os.path.abspath(target), "rows": rows, "bytes": size}
