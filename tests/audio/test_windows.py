"""Cutting windows: a stream against its simple twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.audio import cut_windows, window_spans
from embedstore.errors import AudioError, ParameterError
from embedstore.types import Windowing


def twin(sound, windowing):
    """Cut the whole track at once, straight from the definition; None if it is too short."""
    if len(sound) < windowing.minimum:
        return None
    length, hop, pad = windowing.length, windowing.hop, windowing.pad
    if length is not None and windowing.short == "repeat" and len(sound) + 2 * pad < length:
        sound = np.resize(sound, length - 2 * pad)
    sound = np.pad(sound, pad, mode="reflect")
    if length is None or len(sound) < length:
        return [sound]
    spans = [(start, start + length) for start in range(0, len(sound) - length + 1, hop)]
    start, end = spans[-1]
    if end < len(sound) and windowing.tail == "merge":
        if len(sound) - (start + hop) < windowing.min_tail:
            spans[-1] = (start, len(sound))
        else:
            spans.append((start + hop, len(sound)))
    return [sound[start:end] for start, end in spans]


@st.composite
def windowings(draw):
    length = draw(st.one_of(st.none(), st.integers(1, 12)))
    return Windowing(
        length=length,
        hop=draw(st.integers(1, length)) if length else 1,
        pad=draw(st.integers(0, 6)),
        min_tail=draw(st.integers(0, 15)),
        tail=draw(st.sampled_from(["merge", "drop"])),
        short=draw(st.sampled_from(["keep", "repeat"])),
        minimum=draw(st.integers(1, 15)),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=8), windowings())
def test_any_split_gives_the_windows_of_the_twin(sizes, windowing):
    """Whatever the blocks, the windows are those of the whole track cut at once, bit for bit."""
    sound = np.random.default_rng(len(sizes)).standard_normal(sum(sizes)).astype(np.float32)
    blocks = np.split(sound, np.cumsum(sizes)[:-1]) if sizes else []
    expected = twin(sound, windowing)
    if expected is None:
        with pytest.raises(AudioError, match="too short"):
            list(cut_windows(blocks, windowing))
        return
    windows = list(cut_windows(blocks, windowing))
    assert [window.tolist() for window in windows] == [window.tolist() for window in expected]
    assert all(window.dtype == np.float32 for window in windows)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 80), windowings())
def test_spans_say_where_the_windows_lie(n, windowing):
    """As many spans as windows; each window holds the sound of its span, and mirrored or repeated sound besides."""
    try:
        windows = list(cut_windows([np.arange(n, dtype=np.float32)], windowing))
    except AudioError:
        return
    spans = window_spans(n, windowing)
    assert spans.shape == (len(windows), 2)
    np.testing.assert_array_equal(window_spans(n, windowing, len(windows)), spans)
    assert (spans[:, 0] <= spans[:, 1]).all()
    for place, (window, (start, end)) in enumerate(zip(windows, spans.tolist(), strict=True)):
        if start == end:  # all of it is mirrored sound
            assert windowing.pad
            continue
        skip = max(0, windowing.pad - place * windowing.hop) if windowing.length else windowing.pad
        np.testing.assert_array_equal(window[skip : skip + end - start], np.arange(start, end))
        assert end == n or skip + end - start == len(window), "a window is longer than its span only past an end"


def test_spans_of_a_length_that_is_known_to_rounding():
    """Where the count is known, one sample too many or too few makes no window come or go; the last ends with the track."""
    windowing = Windowing(length=1000, hop=1000, min_tail=200)
    for n in (1199, 1200, 1201):
        assert window_spans(n, windowing, 2).tolist() == [[0, 1000], [1000, n]]
        assert window_spans(n, windowing, 1).tolist() == [[0, n]]
    assert window_spans(0, windowing).tolist() == [[0, 0]]


def test_a_file_is_normalised_before_it_is_cut():
    """The windows are those of the whole track at zero mean and unit variance; overlaps agree bit for bit."""
    sound = np.random.default_rng(0).normal(0.1, 0.02, 1000).astype(np.float32)
    sound[:500] *= 3
    windowing = Windowing(length=200, hop=100, pad=20, normalise="file")
    plain = Windowing(length=200, hop=100, pad=20)
    moments = {"mean": float(sound.mean(dtype="f8")), "deviation": float(sound.std(dtype="f8"))}
    found = list(cut_windows(np.array_split(sound, 7), windowing, **moments))
    expected = list(cut_windows([((sound - moments["mean"]) / moments["deviation"]).astype(np.float32)], plain))
    for window, twin_window in zip(found, expected, strict=True):
        np.testing.assert_allclose(window, twin_window, atol=2e-3)  # the constant against silence
    np.testing.assert_array_equal(found[0][100:], found[1][:100])
    silence = list(cut_windows([np.full(300, 0.5, np.float32)], windowing, mean=0.5, deviation=0.0))
    assert not np.concatenate(silence).any()
    same = np.concatenate(list(cut_windows([sound], plain, **moments)))
    np.testing.assert_array_equal(same, np.concatenate(list(cut_windows([sound], plain))))
    with pytest.raises(ParameterError, match=r"mean and deviation of its samples; see Decoder\.inspect"):
        next(cut_windows([sound], windowing, mean=0.0))


def test_five_second_windows():
    """At 16 kHz, 5-s windows with a 1-s least tail: 12.5 s keep their tail, 10.5 s join it."""
    windowing = Windowing(length=80_000, hop=80_000, min_tail=16_000)
    for seconds, lengths in [(12.5, [5, 5, 2.5]), (10.5, [5, 5.5]), (10, [5, 5]), (3, [3])]:
        blocks = np.array_split(np.zeros(round(seconds * 16_000), np.float32), 7)
        assert [len(window) / 16_000 for window in cut_windows(blocks, windowing)] == lengths


def test_memory_is_bounded_by_a_window():
    """A window leaves as soon as it is certain: the stream is never read further ahead than one window and the least tail."""
    read = 0

    def blocks():
        nonlocal read
        for _ in range(1000):
            read += 10
            yield np.zeros(10, np.float32)

    for n, _ in enumerate(cut_windows(blocks(), Windowing(length=100, hop=50, pad=20, min_tail=30))):
        assert read <= 50 * n + 100 + 30 + 20


def test_windows_belong_to_the_caller():
    """Writing into a window changes neither the next window nor the block it came from."""
    block = np.zeros(8, np.float32)
    windows = cut_windows([block], Windowing(length=4, hop=2))
    next(windows)[:] = 1
    assert next(windows).tolist() == [0, 0, 0, 0]
    assert block.tolist() == [0] * 8
    (whole,) = cut_windows([block], Windowing(length=None, hop=1))
    whole[:] = 1
    assert block.tolist() == [0] * 8


def test_too_short_says_seconds_found_and_needed():
    """The error speaks in seconds when it knows the rate, and belongs to the check stage."""
    windowing = Windowing(length=1000, hop=1000, minimum=400)
    with pytest.raises(AudioError, match=r"^too short: 0\.010 s, and the encoder needs 0\.025 s$") as caught:
        next(cut_windows([np.zeros(160, np.float32)], windowing, sample_rate=16_000))
    assert caught.value.stage == "check"
    with pytest.raises(AudioError, match=r"^too short: 0 samples, and the encoder needs 400$"):
        next(cut_windows([], windowing))
