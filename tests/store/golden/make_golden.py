"""Make the golden stores again: ``python make_golden.py FOLDER``.

Format 1 as the first release wrote it: layers of three widths, two shards, one delta with every statement, a name that
is not UTF-8; a store that keeps windows; and one with a merged shard, a merged delta, and a planned shard. The
committed copies are never made anew: every later release must read them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import store_material as m

from embedstore.store import EmbeddingStore, shard_writer
from embedstore.types import TrackLabels

DIMS = (4, 6, 1)
ODD = os.fsdecode(b"caf\xe9 \xe2\x99\xab\n.ogg")


def make(path: str) -> EmbeddingStore:
    """Write the golden store."""
    store = EmbeddingStore.create(path, m.card(DIMS), m.recipe())
    with store.writer() as w:
        m.fill(w, range(3), DIMS)
        w.commit()
        w.add(replace(m.track(3), files=(m.file(3, ODD),)), m.file_hash(3), m.vectors(3, DIMS))
        w.link(m.file(50, "twin.ogg"), m.file_hash(50), 1001)
        w.touch(replace(m.file(0), mtime_ns=-1))
        w.fail(m.file(51, "bad.ogg"), "decode", "no frames \udcff")
        w.label(1002, TrackLabels(("new genre",), (), "", "", "labels.csv"))
        w.forget(m.file(1).full_path)
    return store


def make_windows(path: str) -> EmbeddingStore:
    """Write the golden store that keeps windows."""
    return m.make_kept(path, range(3), DIMS)


def make_merged(path: str) -> EmbeddingStore:
    """Write the golden store that was merged, and went on."""
    store = make(path)
    store.compact()
    with shard_writer(path, "0123456789abcdef" * 2, 3, store.recipe) as w:
        m.fill(w, [4], DIMS)
        w.finish()
    with store.writer() as w:
        w.label(1000, TrackLabels(("newest genre",), (), "", "", "labels.csv"))
    return store


if __name__ == "__main__":
    make(f"{sys.argv[1]}/store")
    make_windows(f"{sys.argv[1]}/windows")
    make_merged(f"{sys.argv[1]}/merged")
