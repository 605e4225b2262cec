"""Run a network on a device: precision, and batches that fit its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from embedstore.errors import EncoderError, ParameterError
from embedstore.types import Floats, LayerEmbeddings

__all__ = ["Runner", "check_precision", "inference"]

PRECISIONS = ("float32", "bfloat16", "float16")
_BATCH = 4  # windows that a lane hands over at once where they run one by one
_MOST_SECONDS = 640  # of sound at once: more keeps no GPU busier
_BYTES = 2_000  # memory behind one sample of sound, in the widest place of a network at 16 kHz


class Runner:
    """Gives a network its windows, by length, as many at once as its device holds.

    On a CPU each window runs alone: batches gain nothing there, and so equal windows give equal bits whatever else is
    in the call. On a GPU windows share a batch; when its memory runs out, batches are halved, for good.

    Parameters
    ----------
    hear : callable
        Takes a list of windows, shorter ones first, and gives a list of LayerEmbeddings.
    device : str
        As `pick_device` gives it.
    sample_rate : int
        Hz.

    Attributes
    ----------
    batch : int
        Windows of 5 s that are worth handing over at once.
    """

    def __init__(self, hear: Callable[[list[Floats]], list[LayerEmbeddings]], *, device: str, sample_rate: int) -> None:
        import torch

        self._hear, self._device = hear, torch.device(device)
        self._samples = 1  # at once, or one window
        self.batch = _BATCH
        if self._device.type != "cpu":
            free = torch.cuda.mem_get_info(self._device)[0] if self._device.type == "cuda" else 4 << 30
            self._samples = min(_MOST_SECONDS * sample_rate, free // 2 // _BYTES)
            self.batch = max(_BATCH, self._samples // (5 * sample_rate))

    def __call__(self, windows: Sequence[Floats]) -> list[LayerEmbeddings]:
        """Encode windows, in order.

        Raises
        ------
        EncoderError
            One window alone does not fit the device's memory.
        """
        todo = sorted(range(len(windows)), key=lambda place: len(windows[place]))
        results: dict[int, LayerEmbeddings] = {}
        while todo:
            part = todo[: self._fitting([len(windows[place]) for place in todo])]
            try:
                heard: list[LayerEmbeddings] | None = self._hear([windows[place] for place in part])
            except RuntimeError as error:  # torch.OutOfMemoryError is one, and what mps raises
                if "out of memory" not in str(error):  # a CPU's words are others, and no smaller batch would help it
                    raise
                if len(part) == 1:
                    raise EncoderError(
                        f"a window of {len(windows[part[0]]):,} samples does not fit the memory of {self._device}; "
                        "shorter ones do: --window SECONDS"
                    ) from error
                heard = None
            if heard is None:  # not above: there, the traceback still holds what the failed batch took
                self._samples = sum(len(windows[place]) for place in part) // 2
                self._forget()
                continue
            results.update(zip(part, heard, strict=True))
            todo = todo[len(part) :]
        return [results[place] for place in range(len(windows))]

    def _fitting(self, lengths: list[int]) -> int:
        """Count the windows, at least one, that go together."""
        total = 0
        for count, length in enumerate(lengths):
            total += length
            if total > self._samples:
                return max(1, count)
        return len(lengths)

    def _forget(self) -> None:
        """Give the memory of the failed batch back, so that pieces of it are not in the way."""
        import torch

        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def inference(device: str, precision: str) -> Iterator[None]:
    """Run what is in the block without gradients, its products in a precision (by autocast: norms and sums in float32)."""
    import torch

    half = precision != "float32"
    kind, dtype = torch.device(device).type, getattr(torch, precision) if half else None
    with torch.inference_mode(), torch.autocast(kind, dtype, enabled=half):
        yield


def check_precision(precision: str | None, device: str) -> str:
    """Read a precision option; None stands for float32.

    Raises
    ------
    ParameterError
        Unknown, or half precision on a CPU, where it is slow.

    Examples
    --------
    >>> check_precision(None, "cpu")
    'float32'
    """
    if precision is None:
        return "float32"
    if precision not in PRECISIONS:
        raise ParameterError(f"precision is {', '.join(PRECISIONS)}; got {precision!r}")
    if precision != "float32" and device == "cpu":
        raise ParameterError(f"precision {precision} needs a GPU; on a CPU it is float32")
    return precision
