"""Trained probes that are kept: fitted on all tracks of a task, calibrated, and written to a file.

A file may come from anywhere: only built-in probes are ever made from one, and its arrays have to fit together, and give
probabilities for a row of zeros, before it is used.

=====================  ====================================================================================
mean, deviation        of the training tracks, shape (n_layers of a mix, else 1, dim); deviation 0: constant
weights                of a mix, shape (n_layers,); with ``mixed.mean``, ``mixed.deviation``, shape (1, dim)
slope, bias            of a `probes.calibration.Calibration`, shape (n_classes,)
keys                   of the training tracks, int64, shape (n,)
model.0.NAME           what the estimator's ``state`` gives; of several tags, ``model.T.NAME`` is of tag T
=====================  ====================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedstore import __version__
from embedstore.errors import EmbedstoreError, EncoderMismatchError, ParameterError, StoreFormatError
from embedstore.registry import unknown_name
from embedstore.store import EmbeddingStore
from embedstore.store.records import take
from embedstore.types import Layer, LayerEmbeddings
from probes.base import BUILTIN, Ints, Matrix, fit_model, grade, load_probe, seeded
from probes.calibration import Calibration, RiskCurve, calibrate
from probes.layers import JOINT, Feature, join_layers
from probes.probefile import SUFFIX, encode, parse_file, probe_path, read_file, saved_probes, take_array, write_files
from probes.results import Interval
from probes.scaling import Preparation, Scale
from probes.task import Task

__all__ = ["Prediction", "SavedProbe", "keep_probe", "load_saved", "savable"]

Array = NDArray[Any]
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """What a probe says about some tracks.

    Attributes
    ----------
    genres : tuple of str
    probabilities : float64 array, shape (n, n_genres)
        Calibrated; with several tags a track they do not add up to 1.
    threshold : float
        Least top probability of an answer.
    """

    genres: tuple[str, ...]
    probabilities: Matrix
    threshold: float = 0.0

    @property
    def top(self) -> Ints:
        """Number of the likeliest genre, shape (n,)."""
        return np.asarray(self.probabilities.argmax(1), dtype=np.int64)

    @property
    def abstained(self) -> NDArray[np.bool_]:
        """Whether the top probability is below the threshold, shape (n,)."""
        return np.asarray(self.probabilities.max(1) < self.threshold)

    def __repr__(self) -> str:
        return f"Prediction({len(self.probabilities)} tracks, {len(self.genres)} genres)"


@dataclass(frozen=True, repr=False, eq=False)
class SavedProbe:
    """A trained, calibrated probe.

    Attributes
    ----------
    path : str
        Of its file.
    about : dict
        The whole description, plain data: also settings, protocol, scores, licence and paper, where known.
    genres : tuple of str
        Genres, or tags.
    multilabel : bool
    probe : str
        Built-in name.
    layer : int or str
        Number, ``"mean"``, ``"concat"`` or ``"mix"``.
    layers : tuple of Layer
        All that its source had.
    fingerprint : str
        Of the recipe of the store that it was trained on; empty if there was none.
    keys : int64 array
        Of the tracks that it was trained on.
    score : Interval or None
        Main measure (`measure`) on tracks held out, choices included; None if it was not kept.
    worsened : dict of (float, float)
        What calibration made worse on tracks that it was not fitted on, before and after; see `Calibrated`.
    calibration : Calibration
    curve : RiskCurve
    models : tuple of estimator
        One; of several tags one for each, None for a tag that all or no tracks had, unless the probe takes tags jointly.
    prepare : Preparation
        From layers, shape (n_layers of a mix, else 1, n, dim), to the rows of the models.
    """

    path: str
    about: Mapping[str, Any]
    genres: tuple[str, ...]
    multilabel: bool
    probe: str
    layer: int | str
    layers: tuple[Layer, ...]
    fingerprint: str
    keys: Ints
    score: Interval | None
    worsened: Mapping[str, tuple[float, float]]
    calibration: Calibration
    curve: RiskCurve
    models: tuple[Any, ...]
    prepare: Preparation

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `keep_probe` wrote; it may come from anywhere.

        Raises
        ------
        ParameterError
            There is no such file, or it may not be read.
        StoreFormatError
            It is not what the format says.
        """
        return cls.parse(read_file(Path(path)), os.fspath(path))

    @classmethod
    def parse(cls, data: bytes, path: str) -> Self:
        """Read the bytes of such a file; `path` is only told."""
        try:
            about, arrays = parse_file(data)
            probe = cls(path=path, about=about, **_parts(about, arrays))
            probe.predict({layer.number: np.zeros((1, layer.dim), np.float32) for layer in probe.heard})
        except (EmbedstoreError, ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise StoreFormatError(f"{path} is no saved probe that can be used: {error}") from error
        return probe

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return Path(self.path).name.removesuffix(SUFFIX)

    @property
    def tracks(self) -> int:
        """How many tracks it was trained on."""
        return len(self.keys)

    @property
    def measure(self) -> str:
        """Name of the main measure."""
        return _main(self.multilabel)

    @property
    def heard(self) -> tuple[Layer, ...]:
        """Layers that it hears."""
        return _heard(self.layer, self.layers)

    def check_store(self, store: EmbeddingStore) -> None:
        """Refuse a store whose vectors are not like those that it was trained on.

        Raises
        ------
        EncoderMismatchError
        """
        if self.fingerprint != store.fingerprint:
            trained = f"recipe {self.fingerprint[:16]}" if self.fingerprint else "vectors without a recipe"
            raise EncoderMismatchError(
                f"the probe {self.name} was trained on {trained}; the store {store.path} has recipe "
                f"{store.fingerprint[:16]}; take the store that it was trained on, or train it again on this one"
            )

    def predict(self, vectors: Mapping[int, Array] | LayerEmbeddings, threshold: float = 0.0) -> Prediction:
        """Name genres.

        Parameters
        ----------
        vectors : mapping of layer number to float array, shape (n, dim), or LayerEmbeddings
            As a store with the same fingerprint holds them; further layers are passed over.
        threshold : float
            Abstain below this top probability; see `RiskCurve.threshold_for`.

        Raises
        ------
        ParameterError
            A layer is missing, has another shape, or values that are not finite.
        """
        if isinstance(vectors, LayerEmbeddings):
            own = zip(self.layers, vectors.vectors, strict=False)
            vectors = {layer.number: vector[None] for layer, vector in own}
        x = self.prepare(join_layers(self.layer, [self._rows(layer, vectors) for layer in self.heard]))
        return Prediction(self.genres, self.calibration(self._scores(x)), threshold)

    def _rows(self, layer: Layer, vectors: Mapping[int, Array]) -> Array:
        rows = np.asarray(vectors.get(layer.number, ()), dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != layer.dim or not np.isfinite(rows).all():
            raise ParameterError(
                f"the probe {self.name} hears layer {layer.number} ({layer.name}) as finite numbers of shape "
                f"(n, {layer.dim}); got {rows.shape}"
            )
        return rows

    def _scores(self, x: Matrix) -> Matrix:
        """Score rows as `probes.base.score_settings` does, shape (n, n_genres)."""
        try:
            scores = [np.zeros((len(x), 2)) if m is None else grade(m, x, m.classes_) for m in self.models]
            found = (
                np.stack([given - lacking for lacking, given in (tag.T for tag in scores)], 1)
                if scores[1:]
                else scores[0]
            )
        except Exception as error:  # whatever a stranger's arrays do to an estimator
            raise StoreFormatError(f"its arrays are no {self.probe} probe: {error}") from error
        if found.shape != (len(x), len(self.genres)):
            raise StoreFormatError(f"its arrays give scores of shape {found.shape[1:]}, not {len(self.genres)} genres")
        return found

    def __repr__(self) -> str:
        return f"SavedProbe({self.name}: {self.probe}, layer {self.layer}, {len(self.genres)} genres, {self.tracks} tracks)"


def _heard(layer: Any, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    return tuple(one for one in layers if layer in (one.number, *JOINT))


def savable(probe: Any) -> str:
    """Give the built-in name of a probe; others cannot be saved, as nobody's code is run when a file is read.

    Raises
    ------
    ParameterError
        It is another one.

    Examples
    --------
    >>> savable("knn")
    'knn'
    """
    kind = type(load_probe(probe))
    for name, target in BUILTIN.items():
        if target == f"{kind.__module__}:{kind.__qualname__}" and hasattr(kind, "load_state"):
            return name
    raise ParameterError(f"a {kind.__name__} cannot be saved, only built-in probes: {', '.join(BUILTIN)}")


def load_saved(name: str | os.PathLike[str] | None, store: str | os.PathLike[str]) -> SavedProbe:
    """Load a probe by name or path; None: the only one that a store has.

    Raises
    ------
    UnknownNameError, ParameterError, StoreFormatError
        There is none of that name, or none or several to choose from; or as `SavedProbe.load`.
    """
    names = saved_probes(store)
    if name is None:
        if len(names) != 1:
            found = f"{len(names)} saved probes: {', '.join(names)}; name one of them" if names else "no saved probe"
            more = "" if names else "; train one with: embedstore probe --save NAME"
            raise ParameterError(f"the store {store} has {found}{more}")
        name = names[0]
    path = probe_path(name, store)
    if path.parent == probe_path("x", store).parent and path.name.removesuffix(SUFFIX) not in names:
        raise unknown_name("saved probe", os.fspath(name), names)
    return SavedProbe.load(path)


def keep_probe(
    path: str | os.PathLike[str],
    *,
    probe: Any,
    setting: Mapping[str, Any],
    feature: Feature,
    layers: Sequence[Layer],
    task: Task,
    scores: Array,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> SavedProbe:
    """Train a probe on all tracks of a task, calibrate it by scores out of fold, and save it.

    Parameters
    ----------
    path : path
        Such as `probe_path` gives; what is there is replaced.
    probe : str or estimator
        A built-in one, see `savable`.
    setting : mapping
        The chosen one.
    feature : Feature
        The chosen one, rows in the order of the task.
    layers : sequence of Layer
        All that the source has, by rising number.
    task : Task
    scores : float array, shape (n_seeds, n, n_genres)
        Out of fold, of this probe and feature; see `probes.calibration.calibrate`.
    seed : int
        Of the training.
    about : mapping, optional
        Plain data to keep: ``fingerprint`` of the store, encoder, licence, paper, protocol, scores with intervals.

    Raises
    ------
    ParameterError
        The probe cannot be saved, or `about` is no plain data.
    StoreError
        The disk refused; what was there before is still there.
    """
    name, model = savable(probe), seeded(load_probe(probe), seed).set_params(**setting)
    prepare = Preparation.fit(feature.values, task.y)
    arrays, x = prepare.state() | {"keys": np.asarray(task.keys, np.int64)}, prepare(feature.values)
    for number, y in enumerate(task.y.T if _apart(model, task.multilabel) else [task.y]):
        if y.min() < y.max():
            state = fit_model(model, x, y, task.groups).state()
            arrays |= {f"model.{number}.{key}": value for key, value in state.items()}
    calibrated = calibrate(scores, task.y, task.groups, seed)
    arrays |= {"slope": calibrated.calibration.slope, "bias": calibrated.calibration.bias}
    said = {
        "version": __version__,
        "probe": name,
        "params": model.get_params(),
        "layer": feature.layer,
        "layers": [asdict(layer) for layer in layers],
        "genres": list(task.genres),
        "multilabel": task.multilabel,
        "shares": calibrated.calibration.shares,
        "tracks": len(task.y),
        "tracks_per_genre": task.counts,
        "seed": seed,
        "calibration": calibrated.to_dict(),
        "fingerprint": "",
        **(about or {}),
    }
    file = Path(os.path.abspath(path))
    data = encode(said, arrays)
    made = SavedProbe.parse(data, str(file))  # before it takes the place of another
    write_files(file, data, said)
    return made


def _apart(model: Any, multilabel: bool) -> bool:
    """Whether each tag gets a model of its own."""
    return multilabel and not model.__sklearn_tags__().classifier_tags.multi_label


def _parts(about: dict[str, Any], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Check a description and its arrays against each other; gives the fields of `SavedProbe`."""
    genres, multilabel, layer = take(about, "genres", list), take(about, "multilabel", bool), about.get("layer")
    named = all(type(genre) is str and genre.strip() for genre in genres)
    if not named or not 2 <= len(set(genres)) == len(genres):
        raise StoreFormatError(f"'genres' should be at least 2 different texts, none empty; found {genres!r:.80}")
    listed = take(about, "layers", list)
    layers = tuple(Layer(take(o, "number", int), take(o, "name", str), take(o, "dim", int, least=1)) for o in listed)
    widths = [one.dim for one in _heard(layer, layers)] if type(layer) in {int, str} else []
    if not widths or (len(set(widths)) > 1 and layer != "concat"):
        raise StoreFormatError(f"there is no layer {layer!r:.80} of layers {listed!r:.80}")
    if len({one.number for one in layers}) < len(layers):
        raise StoreFormatError(f"two of its layers have one number: {listed!r:.80}")
    n, dim = len(genres), sum(widths) if layer == "concat" else widths[0]
    model = _model(about)
    apart = _apart(model, multilabel)
    calibration = take(about, "calibration", dict)
    said = take(calibration, "curve", dict)
    curve = RiskCurve(*(tuple(take(said, name, list)) for name in RiskCurve.__annotations__))
    before, after = (take(calibration, when, dict) for when in ("before", "after"))
    measured = {name: (take(before, name, float), take(after, name, float)) for name in before}
    return {
        "genres": tuple(genres),
        "multilabel": multilabel,
        "probe": take(about, "probe", str),
        "layer": layer,
        "layers": layers,
        "fingerprint": take(about, "fingerprint", str),
        "keys": take_array(arrays, "keys", (take(about, "tracks", int),), np.int64),
        "score": _score(about.get("selected"), _main(multilabel)),
        "worsened": {name: pair for name, pair in measured.items() if round(pair[0], 3) < round(pair[1], 3)},
        "calibration": Calibration(
            take_array(arrays, "slope", (n,)), take_array(arrays, "bias", (n,)), multilabel, take(about, "shares", bool)
        ),
        "curve": curve,
        "models": tuple(
            _restore(model, arrays, f"model.{number}.", dim, 2 if apart else n) for number in range(n if apart else 1)
        ),
        "prepare": _preparation(arrays, len(layers) if layer == "mix" else 1, dim),
    }


def _main(multilabel: bool) -> str:
    return "map" if multilabel else "macro_f1"


def _score(selected: Any, measure: str) -> Interval | None:
    """Take the score to quote from a `probes.results.LayerResult`, if that is what was kept."""
    said = selected.get(measure) if isinstance(selected, dict) else None
    parts: list[Any] = [said.get(name) if isinstance(said, dict) else None for name in Interval.__annotations__]
    return Interval(*parts) if all(type(part) is float and 0 <= part <= 1 for part in parts) else None


def _preparation(arrays: Mapping[str, Array], n_layers: int, dim: int) -> Preparation:
    """Take what `Preparation.state` gave."""

    def scale(n: int, prefix: str = "") -> Scale:
        mean, deviation = (take_array(arrays, prefix + name, (n, dim))[:, None] for name in ("mean", "deviation"))
        return Scale(mean, np.where(deviation > 0, deviation, np.inf))

    if n_layers == 1:
        return Preparation(scale(1))
    return Preparation(scale(n_layers), take_array(arrays, "weights", (n_layers,)), scale(1, "mixed."))


def _model(about: Mapping[str, Any]) -> Any:
    """Make an estimator of a built-in kind with the settings that a description has."""
    name, params = take(about, "probe", str), take(about, "params", dict)
    if name not in BUILTIN:
        raise StoreFormatError(f"its probe {name!r:.80} is none of {', '.join(BUILTIN)}")
    model = load_probe(name)
    for key, default in model.get_params().items():
        value = params.get(key, default)
        value = tuple(value) if type(default) is tuple and type(value) is list else value
        if not all(type(part) in _PLAIN for part in (value if type(value) is tuple else (value,))):
            raise StoreFormatError(f"its parameter {key} is {value!r:.80}")
        model.set_params(**{key: value})
    return model


def _restore(model: Any, arrays: Mapping[str, Array], prefix: str, dim: int, n_classes: int) -> Any:
    """Make a fitted copy of an estimator; None if there are no arrays of it."""
    from sklearn.base import clone

    state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    if not state:
        return None
    copy = clone(model)
    copy.classes_, copy.n_features_in_ = np.arange(n_classes), dim
    try:
        return copy.load_state(state)
    except Exception as error:  # whatever a stranger's arrays do to an estimator
        raise StoreFormatError(f"its arrays are no {type(model).__name__}: {error}") from error
