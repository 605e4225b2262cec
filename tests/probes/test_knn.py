"""kNN: the tie rule, metrics, temperatures, every setting from one product; leave-one-out against refitting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import scale

from embedstore.errors import ParameterError
from probes import knn
from probes.base import Problem, predictions, score_one_by_one, score_settings
from probes.knn import KNNProbe
from probes.scaling import standardise

ALL = [
    {"n_neighbors": k, "metric": metric, "temperature": t}
    for k in (1, 4, 40)
    for metric in ("cosine", "l2")
    for t in (None, 0.07)
]


def _simple(similarity: np.ndarray, y_train: np.ndarray, k: int, temperature: float | None) -> int:
    """Vote as the definition says: add up, then among the classes with most votes the one met first."""
    near = np.argsort(-similarity, kind="stable")[:k]
    votes: Counter[int] = Counter()
    for row in near:
        votes[int(y_train[row])] += 1 if temperature is None else np.exp(similarity[row] / temperature)
    return next(int(y) for y in y_train[near] if votes[int(y)] == max(votes.values()))


@pytest.mark.parametrize("load", [load_digits, load_wine])
def test_predicts_what_the_definition_says(load: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting at once, in blocks or not, one at a time, and the plain definition agree, ties included."""
    x, y = load(return_X_y=True)  # type: ignore[operator]
    x, y = scale(x)[::8], y[::8]
    half = len(x) // 2
    problem = Problem(x[:half], y[:half], x[half:], np.arange(half))
    (together,) = score_settings(KNNProbe(), [problem], ALL)
    assert together == pytest.approx(score_one_by_one(KNNProbe(), [problem], ALL)[0], abs=1e-8)
    monkeypatch.setattr(knn, "_BLOCK", 7 * half)
    assert together == pytest.approx(score_settings(KNNProbe(), [problem], ALL)[0], abs=1e-12)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    apart = ((x[half:, None] - x[None, :half]) ** 2).sum(2)
    similarity = {"cosine": unit[half:] @ unit[:half].T, "l2": -apart / (2 * x.shape[1])}
    for setting, chosen in zip(ALL, predictions(together), strict=True):
        rows = similarity[setting["metric"]]
        simple = [_simple(row, y[:half], setting["n_neighbors"], setting["temperature"]) for row in rows]
        assert (chosen == simple).all(), setting


def test_shares_are_scikit_learns_probabilities() -> None:
    """Plain and weighted votes equal predict_proba of KNeighborsClassifier, for both metrics."""
    x, y = load_wine(return_X_y=True)
    x = scale(x)
    for metric, theirs, similarity in (
        ("cosine", "cosine", lambda d: 1 - d),
        ("l2", "euclidean", lambda d: -(d**2) / (2 * x.shape[1])),
    ):
        for k, t in ((3, None), (20, 0.07), (20, 1.0)):
            weights = "uniform" if t is None else lambda d, s=similarity, t=t: np.exp(s(d) / t)
            plain = KNeighborsClassifier(k, metric=theirs, weights=weights).fit(x[::2], y[::2])
            ours = KNNProbe(k, metric, t).fit(x[::2], y[::2])
            assert ours.predict_proba(x[1::2]) == pytest.approx(plain.predict_proba(x[1::2]), abs=1e-8)


def test_the_nearest_of_tied_classes_wins() -> None:
    """With one vote each the nearest class wins, not the lowest label; with two votes the majority does."""
    x = np.array([[1, 0.3], [1, 0.2], [1, 0.1]])
    tied = KNNProbe(3).fit(x, [0, 1, 2])
    assert tied.predict([[1, 0]]) == [2]
    assert KNNProbe(3).fit(x, [0, 0, 2]).predict([[1, 0]]) == [0]
    assert tied.predict_proba([[1, 0]])[0] == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_of_rows_equally_near_the_earlier_votes() -> None:
    """Where equals stand on both sides of the cut, and where they are told apart by the last digits alone."""
    x = np.tile([[1.0, 0.0]], (9, 1))
    y = np.array([3, 3, 1, 1, 1, 0, 0, 0, 0])
    assert KNNProbe(3, "l2").fit(x, y).predict([[0.5, 0.5]]) == [3]
    close = np.array([[0.0], [1e-3 + 1e-9], [1e-3]])
    assert KNNProbe(2, "l2").fit(close, [0, 1, 2]).predict_proba([[0.0]])[0] == pytest.approx([0.5, 0, 0.5], abs=1e-8)


def test_k_beyond_the_training_part_takes_all_of_it() -> None:
    """Fifty neighbours of four rows are four."""
    assert KNNProbe(50).fit(np.eye(4), [0, 0, 0, 1]).predict([[0, 0, 0, 1.0]]) == [0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"n_neighbors": 0}, "at least 1"), ({"metric": "l1"}, "known: cosine, l2"), ({"temperature": 0.0}, "above 0")],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    """By fit, and by the batched way."""
    x, y = np.eye(4), np.array([0, 0, 0, 1])
    with pytest.raises(ValueError, match=message):
        KNNProbe(**wrong).fit(x, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        score_settings(KNNProbe(), [Problem(x, y, x, np.arange(4))], [wrong])


def test_length_does_not_matter() -> None:
    """Cosine: a vector and its multiple are one neighbour, a zero vector is no error."""
    probe = KNNProbe(1).fit([[100.0, 1.0], [0.01, 0.1]], ["a", "b"])
    assert probe.predict([[0.001, 0.0], [0.0, 50.0], [0.0, 0.0]]).tolist() == ["a", "b", "a"]


def _refitted(x: np.ndarray, y: np.ndarray, groups: np.ndarray, n_classes: int, *, scaled: bool) -> np.ndarray:
    """Leave each group out in turn: scale by the others, fit each setting, score."""
    scores = np.empty((len(ALL), len(x), n_classes))
    for group in np.unique(groups):
        out, rest = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        train, held = (part[0] for part in standardise(x[None], rest, out)) if scaled else (x[rest], x[out])
        problem = Problem(train.astype(float), y[rest], held.astype(float), groups[rest], n_classes)
        scores[:, out] = score_one_by_one(KNNProbe(), [problem], ALL)[0]
    return scores


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("tags", [False, True])
def test_leaving_groups_out_is_refitting_without_them(
    tags: bool, scaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each group's own scaling, dimensions that only one group moves, classes that only it has; whatever the blocks."""
    rng = np.random.default_rng(0)
    x, y, groups = rng.normal(50, 3, (40, 7)).astype("f"), rng.integers(0, 4, 40), np.arange(40) % 7
    x[:, 5], x[:, 6] = 7, 0
    x[groups == 3, 6] = 5
    y[groups == 4] = 5
    if tags:
        y = rng.integers(0, 2, (40, 4))
        y[:, 2], y[:, 3] = 0, groups == 3
    due = _refitted(x, y, groups, 6 - 2 * tags, scaled=scaled)
    for block in (knn._BLOCK, 3 * 40):
        monkeypatch.setattr(knn, "_BLOCK", block)
        found = KNNProbe().score_left_out(x, y, groups, ALL, 6 - 2 * tags, standardise=scaled)
        assert found == pytest.approx(due, abs=2e-8)


def test_leaving_one_out_of_one_group_is_refused() -> None:
    """Nobody would be left to vote."""
    with pytest.raises(ParameterError, match="all 4 rows"):
        KNNProbe().score_left_out(np.eye(4), np.arange(4), np.zeros(4, int), ALL, 4)
