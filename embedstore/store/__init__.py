"""The store room: crash-safe, immutable HDF5 shards and a catalogue that can be made again (see FORMAT.md)."""

from __future__ import annotations

from embedstore.store.planned import (
    ShardWriter,
    finalized,
    finished_shards,
    forget_plans,
    note_finalized,
    shard_writer,
)
from embedstore.store.store import EmbeddingStore, Failure, FileState, ShardInfo
from embedstore.store.verify import VerifyReport
from embedstore.store.writer import StoreWriter

__all__ = [
    "EmbeddingStore",
    "Failure",
    "FileState",
    "ShardInfo",
    "ShardWriter",
    "StoreWriter",
    "VerifyReport",
    "finalized",
    "finished_shards",
    "forget_plans",
    "note_finalized",
    "shard_writer",
]
