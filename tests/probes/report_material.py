"""Reports made by hand, with numbers that can be found again in what is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.results import Comparison, CurvePoint, Interval, LayerResult, ProbeReport, Score

HOSTILE = (
    "<script>alert(1)</script>",
    "a \"quote\" & 'tick'",
    "\u202eevil\x1b[31m",
    "long " * 40,
    "$x_1$ 50 % #1 | {b} \\~^",
)


def interval(value: float, half: float = 0.04) -> Interval:
    """Make an interval around a score."""
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def make_report(
    *,
    layers: int = 3,
    genres: tuple[str, ...] = ("blues", "jazz", "rock"),
    multilabel: bool = False,
    full: bool = True,
    probe: str = "logistic",
    encoder: str = "music2vec",
    shift: float = 0.0,
) -> ProbeReport:
    """Make a report of layers whose scores rise to the middle one."""
    rng = np.random.default_rng(layers)
    names = ("map", "roc_auc") if multilabel else ("macro_f1", "accuracy", "balanced_accuracy")

    def score(value: float) -> dict[str, Any]:
        measures = {name: interval(round(value + 0.01 * n, 6)) for n, name in enumerate(names)}
        return {"measures": measures, "by_seed": (value - 0.01, value, value + 0.01)}

    def layer(number: int | str, value: float, **more: Any) -> LayerResult:
        per_class = dict(zip(genres, np.clip(value + rng.normal(0, 0.12, len(genres)), 0, 1).tolist(), strict=True))
        name = more.pop("name", f"layer {number}")
        settings = {"C=0.01": 9, "C=0.1": 6}
        return LayerResult(
            layer=number, name=name, per_class=per_class, inner=value - 0.02, settings=settings, **more, **score(value)
        )

    best = layers // 2
    values = [0.2 + shift + 0.3 * np.exp(-(((n - best) / max(layers / 3, 1)) ** 2)) for n in range(layers)]
    results = [layer(n, float(v)) for n, v in enumerate(values)]
    if full:
        weights = {f"layer {n}": (float(v / sum(values)), 0.01) for n, v in enumerate(values)}
        results.append(layer("mix", 0.51 + shift, name=f"mix of {layers} layers", weights=weights))
    chosen = layer(best, 0.48 + shift, name="chosen inside the training parts", layers={str(best): 12, "0": 3})
    counts = rng.integers(0, 8, (len(genres), len(genres))) + 40 * np.eye(len(genres), dtype=int)
    baselines = {"majority": Score(**score(0.02)), "shuffled_labels": Score(**score(0.05))}
    if full:
        baselines["mfcc"] = layer(0, 0.28, name="MFCC statistics")
    cka = np.exp(-np.abs(np.subtract.outer(np.arange(layers), np.arange(layers))) / 4)
    versions = {"embedstore": "0.5", "numpy": "2.3"}
    source = {
        "encoder": encoder, "model": "m-a-p/music2vec-v1", "store": "demo/store", "fingerprint": "5f3c" * 8,
        "citation": "Li et al. 2022", "licence": "CC-BY-NC-4.0",
        "labels": {"name": "gtzan", "citation": "Tzanetakis and Cook 2002", "licence": "unknown"},
    }  # fmt: skip
    protocol = {
        "task": "multi-label" if multilabel else "single-label", "split": "cv", "folds": 5, "seeds": [0, 1, 2],
        "group": "artist", "groups": 24, "inner": "folds left over", "resamples": 10_000, "settings": [{"C": 0.01}, {"C": 0.1}],
    }  # fmt: skip
    return ProbeReport(
        probe=probe, source=source, genres=genres, tracks_per_genre={name: 40 + n for n, name in enumerate(genres)},
        n_tracks=1400, excluded={"tracks": 7, "no_genre": 3, "several_genres": 4, "genres": ["tiny"]}, protocol=protocol,
        results=tuple(results), selected=chosen, best_layer=best,
        confusion=None if multilabel else {"labels": list(genres), "matrix": counts.tolist()},
        baselines=baselines, selectivity=Interval(0.43, 0.38, 0.48),
        comparisons=tuple(
            Comparison(first=f"layer {best}", second=f"layer {n}", difference=Interval(0.1 - n / 50, 0.05 - n / 50, 0.15 - n / 50), p=0.0004, p_holm=0.012, odds=2.5)
            for n in range(layers) if n != best
        ) if full else (),
        indistinct=tuple(n for n in range(layers) if abs(n - best) == 1) if full else (),
        curve=tuple(
            CurvePoint(size=size, shots=False, n_train=float(size), selected=layer(best, 0.2 + shift + 0.1 * k, layers={str(best): 15}), results=tuple(results))
            for k, size in enumerate((280, 560, 840, 1120))
        ) if full else (),
        quality={
            "layers": {n: {"logme": 0.1 * n, "h_score": 2.0, "silhouette": None} for n in range(layers)},
            "cka": {"layers": list(range(layers)), "matrix": cka.tolist()},
        } if full else None,
        command="embedstore probe --probe logistic --genres 20", notes=("4 tracks are in several of the chosen genres and were left out",),
        versions=versions,
    )  # fmt: skip


def compared() -> tuple[Comparison, ...]:
    """Make a comparison of two reports."""
    return (
        Comparison(
            first="music2vec", second="musicnn", difference=Interval(0.06, 0.01, 0.11), p=0.02, p_holm=0.02, odds=1.6
        ),
    )


def make_audit() -> Any:
    """Make an audit whose loosest grouping is 0.2 too high."""
    from probes.audit import AuditReport, Grouping, Offenders

    names = ("none", "track", "album", "artist", "near-duplicate")
    values = (0.7, 0.69, 0.6, 0.51, 0.5)
    return AuditReport(
        probe="knn",
        source={"encoder": "music2vec"},
        genres=("blues", "jazz"),
        n_tracks=300,
        protocol={"folds": 5, "seeds": [0, 1], "resamples": 1000, "interval": "95 %: bootstrap"},
        groupings=tuple(
            Grouping(
                name=name, groups=300 - 50 * n, score=Score(measures={"macro_f1": interval(v)}, by_seed=(v, v)),
                gap=Interval(v - 0.5, v - 0.55, v - 0.45), leaks=v > 0.55, divided=dict.fromkeys(names[1:], 12.5),
            )
            for n, (name, v) in enumerate(zip(names, values, strict=True))
        ),
        offenders=(Offenders(kind="artist", pairs=81.5, examples=(("a/<b>one.mp3", "a/two.mp3"),)),),
        verdict="leak: macro-f1 is too high with nothing kept together",
        notes=("30 tracks have no artist",),
    )  # fmt: skip
