"""What reads shards fast reads them as the slow way does, and leaves nothing behind."""

from __future__ import annotations

from contextlib import nullcontext

import h5py
import numpy as np
import pytest
import store_material as m

from embedstore.errors import StoreFormatError
from embedstore.store import records, shard

SPEC = records.Spec("0" * 32, "f", ((0, "layer 0", 8),))


def test_finite_is_what_numpy_says_of_every_half():
    """All 65,536 float16 values, one by one and among others, are told as np.isfinite tells them."""
    halfs = np.arange(2**16, dtype="<u2").view("<f2")
    assert [shard._finite(halfs[i : i + 1]) for i in range(2**16)] == np.isfinite(halfs).tolist()
    assert shard._finite(halfs[np.isfinite(halfs)])
    assert not shard._finite(halfs)


def test_widen_is_what_numpy_does_to_every_finite_half():
    """All 63,488 finite float16 values become the same float32, bit by bit, signed zeros and subnormals too."""
    halfs = np.arange(2**16, dtype="<u2").view("<f2")
    halfs = halfs[np.isfinite(halfs)].reshape(-1, 8)
    out = np.empty(halfs.shape, np.float32)
    shard.widen(halfs, out)
    assert out.tobytes() == halfs.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("value", "outcome"), [(1.0, nullcontext()), (np.nan, pytest.raises(StoreFormatError, match="not finite"))]
)
def test_parsing_leaves_the_bytes_and_nothing_open(value, outcome):
    """HDF5 reads the caller's bytes in place: it changes none, and holds on to none, whether a shard is read or refused."""
    rows = [records.Row(m.track(i), (m.file_hash(i),), 1) for i in range(3)]
    data = shard.build_shard(SPEC, 1, rows, [[np.full(8, value, "<f2")]] * 3)
    before, opened = bytes(bytearray(data)), h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_ALL)
    with outcome as refusal:  # its traceback keeps what was open
        shard.parse_shard(data, "x", 1, SPEC, values=True)
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_ALL) == opened
    assert data == before
    del refusal
