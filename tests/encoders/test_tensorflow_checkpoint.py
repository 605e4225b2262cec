"""The checkpoint reader, against checkpoints that this file writes itself, whole and damaged in every way."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.encoders import tensorflow_checkpoint
from embedstore.encoders.tensorflow_checkpoint import crc32c, read_checkpoint
from embedstore.errors import WeightsError

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}
HEADER = b"\x08\x01\x1a\x02\x08\x01"  # one data file, little-endian, format version 1


# -- a writer of checkpoints -----------------------------------------------------------------------------------------


def byte_by_byte(data: bytes) -> int:
    """Compute CRC-32C as its definition reads."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = byte_by_byte(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def varint(value: int) -> bytes:
    head = bytearray()
    while value > 0x7F:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def entry(dtype: int, shape: Iterable[int], offset: int, size: int, crc: bytes, *, part: int = 0) -> bytes:
    """Write a BundleEntryProto."""
    dimensions = b"".join(text(2, number(1, length)) for length in shape)
    place = number(3, part) + number(4, offset) + number(5, size)
    return number(1, dtype) + text(2, dimensions) + place + varint(6 << 3 | 5) + crc


def body(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Write a block: entries with prefix-compressed keys, one restart point."""
    content, last = b"", b""
    for key, value in entries:
        shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return content + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def table_of(blocks: list[tuple[bytes, bytes]], *, compression: int = 0) -> bytes:
    """Write a sorted string table of (last key, block)."""
    content = b""

    def append(block: bytes) -> bytes:
        nonlocal content
        handle = varint(len(content)) + varint(len(block))
        content += block + bytes([compression]) + masked(block + bytes([compression]))
        return handle

    handles = [(key, append(block)) for key, block in blocks]
    footer = append(body([])) + append(body(handles))
    return content + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def table(entries: list[tuple[bytes, bytes]], *, per_block: int = 3, compression: int = 0) -> bytes:
    """Write a sorted string table of (key, value)."""
    blocks = [entries[start : start + per_block] for start in range(0, len(entries), per_block)]
    return table_of([(block[-1][0], body(block)) for block in blocks], compression=compression)


def write_checkpoint(tensors: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    data, entries = b"", [(b"", HEADER)]
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0].encode()):
        raw = tensor.tobytes()
        entries.append((name.encode(), entry(TYPES[tensor.dtype.name], tensor.shape, len(data), len(raw), masked(raw))))
        data += raw
    return table(entries), data


def one_tensor(raw: bytes = bytes(8), **changes: object) -> bytes:
    """Write the index of one float32 tensor of shape (2,), with some of its entry changed."""
    fields: dict = {"dtype": 1, "shape": (2,), "offset": 0, "size": 8, "crc": masked(raw), **changes}
    return table([(b"", HEADER), (b"kernel", entry(**fields))])


@pytest.fixture(scope="module")
def small() -> tuple[bytes, bytes, dict[str, np.ndarray]]:
    tensors = {
        "conv2d/bias": np.arange(3, dtype=np.float32),
        "conv2d/kernel": np.arange(24, dtype=np.float32).reshape(2, 4, 3),
        "conv2d_1/bias": np.arange(2, dtype=np.int64),
        "step": np.array(7, np.int32),
    }
    return *write_checkpoint(tensors), tensors


# -- what is whole ---------------------------------------------------------------------------------------------------

tensors = arrays.arrays(st.sampled_from(sorted(TYPES)), arrays.array_shapes(min_dims=0, max_dims=4, max_side=5))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), tensors, max_size=9))
def test_reads_what_was_written(expected: dict[str, np.ndarray]) -> None:
    """Names, types, shapes and bits come back."""
    index, data = write_checkpoint(expected)
    found = read_checkpoint(index, data)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes()


def test_reads_only_what_is_wanted(small) -> None:
    """Damage in other tensors does not matter then; a wanted tensor that is not there does."""
    index, data, expected = small
    damaged = bytearray(data)
    damaged[-1] ^= 1
    assert read_checkpoint(index, bytes(damaged), ["conv2d/bias"])["conv2d/bias"].tolist() == [0, 1, 2]
    assert list(read_checkpoint(index, data, ["step", "conv2d/bias"])) == ["step", "conv2d/bias"]
    with pytest.raises(WeightsError, match=rf"no tensor 'dense/kernel'; it has {len(expected)} others"):
        read_checkpoint(index, data, ["conv2d/bias", "dense/kernel"])


def test_tensors_are_views(small) -> None:
    """Nothing is copied, so nothing may be written."""
    index, data, _ = small
    tensor = read_checkpoint(index, data)["conv2d/kernel"]
    assert np.shares_memory(tensor, np.frombuffer(data, np.uint8))
    assert not tensor.flags.writeable


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 31, 32, 33, 1000, 4093])
def test_sum_agrees_with_its_definition(size) -> None:
    """The lanes of the fast sum give what going byte by byte gives."""
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == byte_by_byte(data)


# -- what is damaged -------------------------------------------------------------------------------------------------


def test_every_cut_is_noticed(small) -> None:
    """A file that ends early anywhere is refused."""
    index, data, _ = small
    for end in range(len(index)):
        with pytest.raises(WeightsError):
            read_checkpoint(index[:end], data)
    for end in range(len(data)):
        with pytest.raises(WeightsError, match="cut short"):
            read_checkpoint(index, data[:end])


def test_every_flipped_byte_is_noticed(small) -> None:
    """One changed byte is refused, unless it is one that means nothing (padding, the empty metaindex)."""
    index, data, expected = small
    harmless = 0
    for place in range(len(index)):
        damaged = bytearray(index)
        damaged[place] ^= 0x10
        try:
            found = read_checkpoint(bytes(damaged), data)
        except WeightsError:
            continue
        harmless += 1
        assert all(found[name].tobytes() == tensor.tobytes() for name, tensor in expected.items())
    assert harmless < 60  # of the footer's 48 bytes and the metaindex's 13
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(WeightsError, match="sum of tensor"):
            read_checkpoint(index, bytes(damaged))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_nothing_but_a_weights_error_escapes(draw) -> None:
    """Behind valid sums any bytes may stand: the answer is arrays or a WeightsError, and no heap of memory."""
    index, data = write_checkpoint({"a/kernel": np.ones((2, 3), np.float32), "a/bias": np.ones(3, np.float32)})
    damaged = bytearray(index)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(index) - 9))] = draw.draw(st.integers(0, 255))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_checkpoint, "_check_sum", lambda *_: None)
        tracemalloc.start()
        try:
            found = read_checkpoint(bytes(damaged), data)
        except WeightsError:
            found = {}
        finally:
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert all(tensor.nbytes <= len(data) for tensor in found.values())
    assert most < 1_000_000


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_before_the_mark(noise: bytes) -> None:
    """Noise that ends as an index does is refused."""
    with pytest.raises(WeightsError):
        read_checkpoint(noise + bytes.fromhex("57fb808b247547db"), b"")


HUGE = 2**62


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "these 0 bytes are not a .* index"),
        (b"x" * 100, "these 100 bytes are not a .* index"),
        (bytes(2**20) + one_tensor(), "are not a .* index"),
        (one_tensor(shape=(HUGE,)), "'kernel' of shape"),
        (one_tensor(shape=(HUGE, HUGE), size=HUGE), "'kernel' of shape"),
        (one_tensor(shape=(HUGE,), size=4 * HUGE), "cut short: tensor 'kernel' ends at byte"),
        (one_tensor(shape=(0, HUGE), size=0), "'kernel' of shape"),
        (one_tensor(shape=(2, *[1] * 40)), "'kernel' of shape"),
        (one_tensor(offset=1), "ends at byte 9, the data at 8"),
        (one_tensor(crc=bytes(4)), "the sum of tensor 'kernel'"),
        (one_tensor(dtype=7), "of a kind that is not read here"),
        (one_tensor(part=1), "of a kind that is not read here"),
        (table([(b"", HEADER + number(2, 1))]), "one little-endian data file"),
        (table([(b"", number(1, 2))]), "one little-endian data file"),
        (table([(b"kernel", b"")]), "one little-endian data file"),
        (table([(b"", HEADER)], compression=1), "compressed"),
        (table([(b"b", b""), (b"a", b"")]), "keys do not rise"),
        (table([(b"a", b""), (b"a", b"")], per_block=1), "keys do not rise"),
        (table([(b"k" * 2000, b"")]), "an entry of 2000"),
        (table_of([(b"", b"\x05\x01\x00k" + body([]))]), "an entry of 1"),  # shares 5 bytes with no key
        (table_of([(b"", b"\x00\x01\x09k" + body([]))]), "an entry of 1 [+] 9"),  # a value of 9 bytes in 0
        (table([(b"", HEADER), (b"kernel", b"\x0a\x7f")]), "whole protobuf message"),
        (table([(b"", HEADER), (b"kernel", b"\xff" * 20)]), "a number does not end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_says_what_is_wrong(index, message) -> None:
    """Each kind of damage has its own words."""
    with pytest.raises(WeightsError, match=message) as caught:
        read_checkpoint(index, bytes(8))
    assert "\n" not in str(caught.value)


def test_tensors_may_not_overlap() -> None:
    """Many names for the same bytes would make a small file look large."""
    raw = bytes(8)
    same = entry(1, (2,), 0, len(raw), masked(raw))
    with pytest.raises(WeightsError, match="overlap"):
        read_checkpoint(table([(b"", HEADER), (b"a", same), (b"b", same)]), raw)
