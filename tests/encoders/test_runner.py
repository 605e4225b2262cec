"""Batches on a device, with a network that says what it was given."""

import numpy as np
import pytest

from embedstore.encoders.runner import Runner
from embedstore.errors import EncoderError
from embedstore.types import LayerEmbeddings


class Sums:
    """Gives each window's sum and length; has memory for so many samples."""

    def __init__(self, memory=10**9):
        self.memory, self.calls = memory, []

    def __call__(self, windows):
        """Hear, or run out of memory as CUDA does."""
        import torch

        lengths = [len(window) for window in windows]
        if sum(lengths) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.calls.append(lengths)
        return [LayerEmbeddings((window.sum(keepdims=True),), len(window)) for window in windows]


def windows_of(*lengths):
    """Windows of ones."""
    return [np.ones(length, np.float32) for length in lengths]


def run(network, windows, samples=1):
    """Encode with batches of up to so many samples."""
    runner = Runner(network, device="cpu", sample_rate=10)
    runner._samples = samples
    results = runner(windows)
    assert [result.vectors[0][0] for result in results] == [len(window) for window in windows]
    return network.calls


def test_on_a_cpu_each_window_runs_alone():
    """Hence equal bits in any company."""
    assert run(Sums(), windows_of(5, 3, 5)) == [[3], [5], [5]]


def test_a_batch_is_filled_by_length_up_to_the_memory():
    """Windows of one length come to lie next to each other, and each result finds its place."""
    assert run(Sums(), windows_of(5, 3, 5, 9, 3), samples=11) == [[3, 3, 5], [5], [9]]


def test_batches_are_halved_until_they_fit_for_good():
    """What did not fit is not tried again with the next windows."""
    network = Sums(memory=10)
    runner = Runner(network, device="cpu", sample_rate=10)
    runner._samples = 1000
    for _ in range(2):
        assert [result.n_frames for result in runner(windows_of(*[4] * 10))] == [4] * 10
    assert {len(call) for call in network.calls} == {2}
    assert runner._samples <= 10


def test_a_window_too_long_for_the_memory_is_an_error_of_its_own():
    """The words say what to do."""
    with pytest.raises(EncoderError, match=r"a window of 50 samples does not fit the memory of cpu; .*--window"):
        run(Sums(memory=10), windows_of(4, 50), samples=1000)


def test_other_errors_pass():
    """They are no reason for smaller batches."""

    def broken(_windows):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Runner(broken, device="cpu", sample_rate=10)(windows_of(4))
