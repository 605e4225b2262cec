"""Genres of audio files by a saved probe: encoded as the store's tracks were, unless the store holds their sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.audio import find_audio
from embedstore.changes import change_of
from embedstore.errors import ParameterError
from embedstore.lanes import Known, Outcome
from embedstore.options import EncoderOptions
from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, Floats, LayerEmbeddings
from probes.saved import Prediction, SavedProbe, load_saved

__all__ = ["Answer", "Classification", "as_stored", "classify", "worth"]

_BLOCK = 1024  # stored tracks at once


@dataclass(frozen=True)
class Answer:
    """What a probe says about one file.

    Attributes
    ----------
    path : str
        Absolute.
    genres : tuple of str
        The likeliest genre; with several tags a track, all that are likelier than not, or else the likeliest. Empty if
        the probe is not sure enough, or the file failed.
    ranking : tuple of (str, float)
        Likeliest genres with their probabilities; empty if the file failed.
    error : str
        Why the file could not be heard.
    trained_on : bool
        Whether this sound was among the probe's training tracks.
    """

    path: str
    genres: tuple[str, ...] = ()
    ranking: tuple[tuple[str, float], ...] = ()
    error: str = ""
    trained_on: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``genres`` is empty if the probe is not sure or the file failed."""
        ranking = [{"genre": genre, "probability": share} for genre, share in self.ranking]
        first = {"path": self.path, "genres": list(self.genres)}
        return first | ({"error": self.error} if self.error else {"ranking": ranking, "trained_on": self.trained_on})


@dataclass(frozen=True)
class Classification:
    """Genres of files.

    Attributes
    ----------
    probe : str
    threshold : float
        Least top probability of an answer.
    coverage : float or None
        Share of tracks that reach a threshold which was chosen for a risk, among those that the probe was calibrated on.
    answers : tuple of Answer
        In the order of the files.
    notes : tuple of str
        What was passed over, and what the probe is worth.
    """

    probe: str
    threshold: float
    coverage: float | None
    answers: tuple[Answer, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Files that could not be heard."""
        return sum(bool(answer.error) for answer in self.answers)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "answers": [answer.to_dict() for answer in self.answers], "notes": list(self.notes)}


def classify(
    store: EmbeddingStore,
    audio: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    probe: str | os.PathLike[str] | SavedProbe | None = None,
    *,
    abstain: float | None = None,
    risk: float | None = None,
    top: int = 2,
    model: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    jobs: int | None = None,
    timeout: float = 60.0,
    progress: Callable[[int, int, Outcome | None], None] | None = None,
) -> Classification:
    """Name the genres of audio files.

    Parameters
    ----------
    store : EmbeddingStore
        Its encoder hears the files; nothing is stored. What it holds already is not encoded.
    audio : path or iterable of paths
        Files, and folders to search.
    probe : str, path or SavedProbe, optional
        Name in the store, or file (see `probes.probefile.probe_path`); default: the store's only one.
    abstain : float, optional
        Give no answer below this top probability, 0..1.
    risk : float, optional
        Instead: choose that threshold so that at most this share of the answers is wrong (`RiskCurve.threshold_for`). It
        holds for tracks like those that the probe was calibrated on.
    top : int
        How many genres to rank.
    model, device, trust_remote_code
        See `EncoderOptions`.
    jobs, timeout, progress
        See `embedstore.build`.

    Raises
    ------
    ParameterError
        No audio, both `abstain` and `risk`, a risk that cannot be promised, a missing folder.
    UnknownNameError, StoreFormatError
        There is no such probe, or its file is damaged.
    EncoderMismatchError
        The probe was trained on vectors of another recipe; what could be loaded is not what filled the store.

    Examples
    --------
    >>> result = classify(EmbeddingStore.open("my-store"), ["new/song.mp3"], "genres", risk=0.2)  # doctest: +SKIP
    >>> [(answer.path, answer.genres) for answer in result.answers]  # doctest: +SKIP
    """
    saved = probe if isinstance(probe, SavedProbe) else load_saved(probe, store.path)
    saved.check_store(store)
    if top < 1 or (abstain is not None and not 0 <= abstain <= 1) or (abstain is not None and risk is not None):
        raise ParameterError(
            f"top is at least 1, abstain a probability, and of abstain and risk one is enough; got top {top}, abstain {abstain}, "
            f"risk {risk}"
        )
    threshold, coverage = (abstain or 0.0, None) if risk is None else saved.curve.threshold_for(risk)
    files, notes = _find([audio] if isinstance(audio, (str, os.PathLike)) else audio)
    options = EncoderOptions(model=model, device=device, trust_remote_code=trust_remote_code)
    hearing = _Hearing(store, saved, threshold, top)
    hearing.run(files, options, jobs=jobs, timeout=timeout, progress=progress)
    answers = tuple(hearing.answers[file.full_path] for file in files)
    return Classification(saved.name, threshold, coverage, answers, (*notes, *_worth(saved, answers)))


def _worth(probe: SavedProbe, answers: Sequence[Answer]) -> list[str]:
    """Say how far a probe's answers, if there are any, can be believed."""
    if all(answer.error for answer in answers):
        return []
    notes = worth(probe)
    if known := sum(answer.trained_on for answer in answers):
        notes.append(
            f"{known} of these files were among its training tracks: that it knows them says nothing of others"
        )
    return notes


def worth(probe: SavedProbe) -> list[str]:
    """Say what a probe was trained on, and how well it did."""
    from probes.report.parts import title_of

    trained = f"the probe was trained on {probe.tracks} tracks of {len(probe.genres)} genres"
    score = (
        f"{title_of(probe.measure)} {probe.score} on tracks held out" if probe.score else "no score was kept with it"
    )
    notes = [f"{trained}; {score}"]
    if probe.worsened:
        worse = ", ".join(
            f"{title_of(n)} {old:.3f} before, {new:.3f} after" for n, (old, new) in probe.worsened.items()
        )
        notes.append(f"calibration did not help on {probe.tracks} tracks: {worse}; take its probabilities as rough")
    return notes


def as_stored(store: EmbeddingStore, heard: LayerEmbeddings) -> dict[int, Floats]:
    """Round as the store does, by number of the layer, shape (1, dim): a sound gets one answer before and after it is stored."""
    with np.errstate(over="ignore"):
        return {
            layer.number: vector[None].astype(np.float16).astype(np.float32)
            for layer, vector in zip(store.card.layers, heard.vectors, strict=True)
        }


def _find(audio: Iterable[str | os.PathLike[str]]) -> tuple[list[AudioFile], tuple[str, ...]]:
    """List files, each once, in the order in which they were named."""
    files: dict[str, AudioFile] = {}
    notes: list[str] = []
    for one in audio:
        path = Path(os.path.abspath(one))
        if path.is_dir():
            found = find_audio(path)
            some, rejected = found.files, found.rejected
            notes += [f"{path}: {r.path}: {r.reason}" for r in rejected]
        else:
            stat = path.stat() if path.is_file() else None  # one that is missing fails like one that is broken
            some = (
                AudioFile(str(path.parent), path.name, stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0),
            )
        files |= {file.full_path: file for file in some}
    if not files:
        raise ParameterError(f"there is no audio in {', '.join(str(one) for one in audio) or 'no place'}")
    return list(files.values()), tuple(notes)


@dataclass
class _Hearing:
    """Gets the vectors of files, from the store or from its encoder, and has the probe answer."""

    store: EmbeddingStore
    probe: SavedProbe
    threshold: float
    top: int
    answers: dict[str, Answer] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)

    def run(self, files: Iterable[AudioFile], options: EncoderOptions, *, progress: Any, **lanes: Any) -> None:
        states = self.store.files()
        self.keys = {f.full_path: states[f.full_path].key for f in files if change_of(f, states, {}) == "stored"}
        todo = [file for file in files if file.full_path not in self.keys]
        if todo:
            known = Known(set(self.store.keys().tolist()), {s.file_hash: s.key for s in states.values() if s.file_hash})
            with options.crew(self.store.card.options, keep_windows=self.store.keeps_windows) as crew:
                self.store.check_recipe(crew.recipe)
                with closing(crew.run(todo, known=known, **lanes)) as outcomes:
                    for done, outcome in enumerate(filter(None, outcomes), 1):
                        self._take(outcome)
                        if progress:
                            progress(done, len(todo), outcome)
        self._recall()

    def _take(self, outcome: Outcome) -> None:
        path = outcome.file.full_path
        if outcome.embeddings is not None:
            halves = as_stored(self.store, outcome.embeddings)
            if all(np.isfinite(values).all() for values in halves.values()):
                self._say([path], [outcome.key], self.probe.predict(halves, self.threshold))
            else:
                self.answers[path] = Answer(path, error="its vectors are beyond the range of float16")
        elif outcome.key is not None:
            self.keys[path] = outcome.key
        else:
            self.answers[path] = Answer(path, error=outcome.reason)

    def _recall(self) -> None:
        """Answer for what the store holds."""
        paths = list(self.keys)
        for start in range(0, len(paths), _BLOCK):
            some = paths[start : start + _BLOCK]
            keys = np.array([self.keys[path] for path in some])
            vectors = {layer.number: self.store.vectors(keys, layer.number) for layer in self.probe.heard}
            self._say(some, keys, self.probe.predict(vectors, self.threshold))

    def _say(self, paths: Iterable[str], keys: Any, said: Prediction) -> None:
        trained = np.isin(keys, self.probe.keys).tolist()
        for path, known, shares, unsure in zip(
            paths, trained, said.probabilities, said.abstained.tolist(), strict=True
        ):
            order = np.argsort(-shares, kind="stable").tolist()
            chosen = [n for n in order if self.probe.multilabel and shares[n] >= 0.5] or order[:1]
            genres = () if unsure else tuple(said.genres[n] for n in chosen)
            ranking = tuple((said.genres[n], float(shares[n])) for n in order[: self.top])
            self.answers[path] = Answer(path, genres, ranking, trained_on=known)
