"""Which files are audio: by suffix, and by the first bytes.

The table is short on purpose: what libsndfile reads, and what FFmpeg adds for music libraries (MP4 audio, AAC, WMA).
FFmpeg is only ever handed a file with one of these signatures, so a playlist or other text can not make it open
further files.
"""

from __future__ import annotations

from typing import BinaryIO

__all__ = ["AUDIO_SUFFIXES", "OTHER_SUFFIXES", "identify", "mpeg_start"]

_AUDIO = "wav wave w64 rf64 flac ogg oga opus mp3 aiff aif aifc au snd caf m4a m4b mp4 aac wma"
_OTHER = """jpg jpeg png gif webp bmp tif tiff heic svg pdf txt md rtf doc docx nfo log cue m3u m3u8 pls xspf lrc srt csv tsv
json jsonl xml yaml yml toml html htm ini py ipynb sh db sqlite h5 hdf5 npy npz parquet pt bin pkl mid midi sf2 abc krn mxl
zip gz bz2 xz tar rar 7z mov m4v mkv avi webm mpg mpeg wmv flv exe dll so part tmp bak sfv md5 sha256"""
AUDIO_SUFFIXES = frozenset(_AUDIO.split())
OTHER_SUFFIXES = frozenset(_OTHER.split())  # what lies beside music in every library: never opened
_PREFIXES = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"caff": "caf",
    b".snd": "au",
    b"riff\x2e\x91\xcf\x11": "w64",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
}
_IMAGE_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"crx "})
_RATES = (44100, 48000, 32000)  # of MPEG-1; MPEG-2 halves them, MPEG-2.5 quarters them
_KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def identify(file: BinaryIO) -> str | None:
    """Name the container by its first bytes ("wav", "mp3", "mp4", "aac", ...), None if there is no known signature.

    An ID3v2 tag is skipped; raw MPEG and AAC need two frames in a row, since two bytes alone prove nothing.

    >>> import io
    >>> identify(io.BytesIO(b"fLaC" + bytes(38))), identify(io.BytesIO(b"just some words, not music"))
    ('flac', None)
    """
    start = _after_id3(file)
    file.seek(start)
    head = file.read(8192)
    for prefix, kind in _PREFIXES.items():
        if head.startswith(prefix):
            return kind
    outer, inner = head[:4], head[8:12]
    if outer in {b"RIFF", b"RF64"} and inner == b"WAVE":
        return "wav"
    if outer == b"FORM" and inner in {b"AIFF", b"AIFC"}:
        return "aiff"
    if head[4:8] == b"ftyp" and inner not in _IMAGE_BRANDS:
        return "mp4"
    for kind, frame_at in (("mp3", _mpeg_frame), ("aac", _adts_frame)):
        length = frame_at(head)
        if length and frame_at(head[length:]):
            return kind
    return "mp3" if start else None  # nothing else of ours begins with an ID3v2 tag


def mpeg_start(file: BinaryIO) -> tuple[int, bool] | None:
    """Find the first MPEG layer III frame: its offset, and whether it states how long the stream is (Xing, Info, VBRI)."""
    start = _after_id3(file)
    file.seek(start)
    head = file.read(65536)
    at = head.find(b"\xff")
    while at >= 0:
        length = _mpeg_frame(head[at : at + 4])
        if length and _mpeg_frame(head[at + length : at + length + 4]):
            frame = head[at : at + length]
            return start + at, any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))
        at = head.find(b"\xff", at + 1)
    return None


def _after_id3(file: BinaryIO) -> int:
    """Offset of the first byte after any ID3v2 tags."""
    offset = 0
    for _ in range(8):  # taggers may stack a few; a file of nothing but tags must not keep us
        file.seek(offset)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        size = 0
        for byte in head[6:10]:  # four times seven bits
            size = size << 7 | byte & 0x7F
        offset += 10 + size
    return offset


def _mpeg_frame(head: bytes) -> int:
    """Bytes of the MPEG layer III frame that begins here, 0 if none does (ISO 11172-3, 2.4.1.3)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, kbps, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or kbps in {0, 15} or rate == 3:
        return 0
    first = version == 3
    hertz = _RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    return (144_000 * _KBPS_1[kbps] if first else 72_000 * _KBPS_2[kbps]) // hertz + (head[2] >> 1 & 1)


def _adts_frame(head: bytes) -> int:
    """Bytes of the ADTS (raw AAC) frame that begins here, 0 if none does (ISO 13818-7, 6.2)."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > 7 else 0
