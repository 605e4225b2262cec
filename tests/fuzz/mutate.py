"""Ways to spoil bytes, JSON and HDF5 files, drawn from a seeded `random.Random`."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import h5py
import numpy as np

NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def spoil(chance: Random, data: bytes, other: bytes = b"", most: int = 8) -> bytes:
    """Flip bits, write numbers, cut, repeat, swap blocks, or take a block from other bytes."""
    out = bytearray(data)
    for _ in range(chance.randint(1, most)):
        at = chance.randrange(len(out) + 1)
        size = chance.choice((1, 2, 4, 8, 8, 64, 512))
        match chance.randrange(8):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 2 | 3:
                out[at : at + size] = (chance.choice(NUMBERS) % 256**size).to_bytes(size, "little")
            case 4:
                del out[at : at + size]
            case 5:
                out[at:at] = out[at : at + size] * chance.randint(1, 3)
            case 6:
                there = chance.randrange(len(out) + 1)
                out[at : at + size], out[there : there + size] = out[there : there + size], out[at : at + size]
            case _:
                there = chance.randrange(len(other) + 1)
                out[at : at + size] = other[there : there + size]
    return bytes(out[: chance.randrange(len(out) + 1)] if chance.random() < 0.05 else out)


# -- JSON ----------------------------------------------------------------------------------------------------------

TEXTS = ("", "a", "..", "/", "/etc/passwd", "../../x", "\x1b]0;x\x07", "\n", "\0", "\ud800", "\udcff", "é" * 300, "NaN")
TEXTS += ("shards/00000001-" + "0" * 32 + ".h5", "mean", "folder", "os:system", "1e999", "\u202e")
LEAVES = (None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"))


def value(chance: Random, depth: int = 0) -> Any:
    """Make up any JSON value."""
    match chance.randrange(8 if depth < 3 else 5):
        case 0 | 1 | 2:
            return chance.choice(LEAVES)
        case 3 | 4:
            return chance.choice(TEXTS)
        case 5 | 6:
            return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            return {chance.choice(TEXTS): value(chance, depth + 1) for _ in range(chance.randrange(4))}


def change(chance: Random, document: Any) -> Any:
    """Put another value in some place of a JSON document, or take one away."""
    if chance.random() < 0.12 or not (isinstance(document, (dict, list)) and document):
        return value(chance)
    whole = document.copy()
    where = chance.choice([*whole] if isinstance(whole, dict) else range(len(whole)))
    if chance.random() < 0.15:
        del whole[where]
    elif isinstance(whole, list) and chance.random() < 0.1:
        whole.append(whole[where])
    else:
        whole[where] = change(chance, whole[where])
    return whole


def text(chance: Random, document: Any) -> bytes:
    """Write a changed document as JSON, now and then as what only looks like it."""
    for _ in range(chance.randint(1, 3)):
        document = change(chance, document)
    written = json.dumps(document).encode()
    match chance.randrange(12):
        case 0:
            return spoil(chance, written, written)
        case 1:
            deep = chance.choice((500, 900, 100_000))
            return written.replace(b"1", b"[" * deep + b"]" * deep, 1)
        case 2:
            return written.replace(
                b"1", chance.choice((b"1e999", b"9" * 5000, b"-Infinity", b"1.", b"\xff", b'"\\ud800"')), 1
            )
    return written


# -- HDF5 ----------------------------------------------------------------------------------------------------------


def lookup3(data: bytes) -> int:
    """Sum up metadata as HDF5 does (Jenkins' lookup3), so that spoilt metadata is not refused for its sum."""

    def turn(x: int, n: int) -> int:
        return (x << n | x >> (32 - n)) & mask

    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask
    blocks = max(0, (len(data) - 1) // 12)
    for i in range(blocks):
        x, y, z = struct.unpack_from("<3I", data, 12 * i)
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        for shift in (4, 6, 8, 16, 19, 4):
            a = (a - c) & mask ^ turn(c, shift)
            c = (c + b) & mask
            a, b, c = b, c, a
    x, y, z = struct.unpack("<3I", data[12 * blocks :].ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - turn(b, shift)) & mask
        a, b, c = b, c, a
    return b  # after seven rounds the three have changed places once


def resum(data: bytearray) -> bytes:
    """Make the sums of the superblock and of the object and fixed-array headers right again."""

    def put(start: int, end: int) -> None:
        if 0 <= start < end <= len(data) - 4:
            data[end : end + 4] = lookup3(bytes(data[start:end])).to_bytes(4, "little")

    put(0, 44)
    at = data.find(b"OHDR")
    while at >= 0:
        if at + 40 < len(data):
            flags = data[at + 5]
            size_at = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            wide = 1 << (flags & 3)
            put(at, size_at + wide + int.from_bytes(data[size_at : size_at + wide], "little"))
        at = data.find(b"OHDR", at + 4)
    at = data.find(b"FAHD")
    while at >= 0:
        put(at, at + 24)
        at = data.find(b"FAHD", at + 4)
    return bytes(data)


def spoil_metadata(chance: Random, data: bytes) -> bytes:
    """Spoil bytes near the signatures of HDF5's metadata, with right sums."""
    out = bytearray(data)
    marks = [0]
    for mark in (b"OHDR", b"FAHD", b"FADB", b"OCHK", b"TREE", b"SNOD", b"HEAP", b"BTHD", b"FRHP"):
        at = out.find(mark)
        while at >= 0:
            marks.append(at)
            at = out.find(mark, at + 1)
    for _ in range(chance.randint(1, 4)):
        at = chance.choice(marks) + chance.randrange(4, 300)
        size = chance.choice((1, 1, 1, 2, 4, 8))
        if at + size <= len(out):
            if chance.random() < 0.5:
                out[at] = chance.choice(
                    (out[at] ^ 1 << chance.randrange(8), chance.randrange(256), chance.randrange(25))
                )
            else:
                there = chance.choice(marks) if chance.random() < 0.3 else chance.choice(NUMBERS)
                out[at : at + size] = (there % 256**size).to_bytes(size, "little")
    return resum(out)


TYPES = ("u1", "<i4", "<i8", "<f2", ">f2", "<f4", "<f8", "S3", "V5", "?", "<c8")
SPECIAL = (
    h5py.string_dtype(),
    h5py.ref_dtype,
    h5py.regionref_dtype,
    h5py.vlen_dtype(np.int32),
    h5py.enum_dtype({"A": 1}),
    np.dtype([("a", "<f2"), ("b", "<i8")]),
    np.dtype(("<f2", (3,))),
)


def rebuild(chance: Random, good: bytes, texts: dict[str, Callable[[Random, bytes], bytes]]) -> bytes:
    """Change a shard through HDF5 itself: types, shapes, chunks, filters, links, attributes, further objects, texts."""
    data = io.BytesIO(good)
    with h5py.File(
        data, "r+", libver=chance.choice((("v110", "v110"), ("v110", "v110"), ("earliest", "v110")))
    ) as file:
        before = {name: file[name][()] for name in file} | {"more": np.ones((3, 8), "<f2")}
        for _ in range(chance.choice((1, 1, 2, 3))):
            name = chance.choice([*before])
            try:
                _change(chance, file, name, before[name], texts)
            except (ValueError, TypeError, RuntimeError, KeyError, OSError, AttributeError, OverflowError):
                continue  # HDF5 does not make such a thing
    return data.getvalue()


def _change(
    chance: Random, file: Any, name: str, data: Any, texts: dict[str, Callable[[Random, bytes], bytes]]
) -> None:
    kind = chance.randrange(14)
    if kind == 0:
        file.attrs[chance.choice(("a", "é" * 70))] = value(chance) or 1
        return
    if kind == 1:
        file[name].attrs["a"] = chance.choice((1, "x", file["keys"].ref))
        return
    if name in texts and kind < 8:
        data = np.frombuffer(texts[name](chance, data.tobytes()), "u1")
        kind = 13
    if name in file:
        del file[name]
    shape = tuple(chance.choice((0, 1, 2, 3, 8, 9, 255, 2**20, 2**38)) for _ in range(chance.randrange(4)))
    match kind:
        case 2:
            file[name] = h5py.ExternalLink(
                chance.choice(("fifo", "/etc/passwd", "elsewhere.h5")), chance.choice(("/", "secret"))
            )
        case 3:
            file[name] = h5py.SoftLink(chance.choice(("/keys", "/nowhere", f"/{name}", "/")))
        case 4:
            layout = h5py.VirtualLayout(data.shape, data.dtype)
            layout[...] = h5py.VirtualSource(chance.choice(("fifo", "elsewhere.h5", ".")), "secret", data.shape)
            file.create_virtual_dataset(name, layout)
        case 5:
            file.create_dataset(
                name, data.shape, data.dtype, external=[(chance.choice(("fifo", "/etc/passwd")), 0, data.nbytes)]
            )
        case 6:
            file[name] = (
                chance.choice((file["header"], np.dtype("<f2"), file["/"]))
                if chance.random() < 0.7
                else file.create_group(name)
            )
        case 7:  # declared, never written
            chunks = tuple(max(1, min(n, chance.choice((1, 8, 256, n)))) for n in shape) or None
            file.create_dataset(name, shape, chance.choice(TYPES), chunks=chunks, fletcher32=chunks is not None)
        case 8:
            special = chance.choice(SPECIAL)
            file.create_dataset(name, data.shape, special, chunks=data.shape, fletcher32=chance.random() < 0.5)
        case 9:
            data = data.astype(chance.choice(TYPES))
        case 10:
            data = np.resize(
                data,
                chance.choice(
                    (shape if np.prod(shape, dtype=float) < 1e4 else (3, 8), data.shape[1:], (*data.shape, 1))
                ),
            )
        case 11 if data.dtype.kind == "f":
            data = data.copy()
            data.flat[chance.randrange(data.size)] = chance.choice((np.nan, np.inf, -np.inf, 65504))
        case 12 if data.dtype.kind == "i":
            data = data.copy()
            data.flat[chance.randrange(data.size)] = chance.choice((-1, 0, 1, 999, 2**31 - 1, -(2**31)))
    if name in file:
        return
    options: dict[str, Any] = {"chunks": data.shape, "fletcher32": True}
    if chance.random() < 0.3 and data.ndim:
        options["chunks"] = tuple(max(1, chance.choice((n, 1, n // 2))) for n in data.shape)
    if chance.random() < 0.2:
        options |= chance.choice(
            ({"compression": "gzip"}, {"shuffle": True}, {"compression": "lzf"}, {"fletcher32": False})
        )
    if chance.random() < 0.1:
        options["maxshape"] = tuple(None for _ in data.shape)
    if chance.random() < 0.1:
        options["fillvalue"] = 1
    file.create_dataset(name, data=data, **options)
