"""The routes: studies that the store keeps, their tracks, its saved probes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from starlette.responses import Response

from embedstore.errors import EmbedstoreError
from embedstore.registry import unknown_name
from embedstore.store import EmbeddingStore
from embedstore.types import track_id
from embedstore.web.answers import Answer
from embedstore.web.extension import Service
from embedstore.web.library import Kept
from probes.studies import list_studies, read_study, state_of, study_path
from probes.web.guess import kept_probes, load_kept, stamp_of
from probes.web.models import Confused, ConfusedTrack, KeptStudy, ProbeEntry, StudyEntry, StudyPage, StudyTracks

__all__ = ["routes"]

AGenre = Annotated[str, Query(max_length=1000)]


def routes(service: Service) -> APIRouter:
    """Make them."""
    api, store = APIRouter(), service.store
    state = Kept(store, lambda: state_of(store))

    @api.get("/studies", response_model=list[StudyEntry])
    def list_what_was_found() -> Response:
        """List the probes and audits that were run, by name; one whose file is damaged is left out."""
        paths = (study_path(store.path, name) for name in list_studies(store.path))
        found, now = [_entry(path, stamp_of(path)) for path in paths], state()
        return Answer([replace(entry, stale=made_of != now) for entry, made_of in filter(None, found)])

    @api.get("/studies/{name}", response_model=StudyPage)
    def show_what_was_found(name: str) -> Response:
        """Give a whole report, as `embedstore probe --json` or `embedstore audit --json` prints it."""
        study = _find(store, name)
        stale, said = study.state != state(), list(study.sentences)
        return Answer(StudyPage(name, study.kind, study.when, study.report.to_dict(), stale, said))

    @api.get("/studies/{name}/tracks", response_model=StudyTracks)
    def list_tested_tracks(name: str) -> Response:
        """List the tracks that were tested and are still in the store, and what was said of each."""
        return Answer(_tracks(_find(store, name), store))

    @api.get("/studies/{name}/confused", response_model=Confused)
    def list_confused_tracks(name: str, true: AGenre, predicted: AGenre) -> Response:
        """List the tracks of one genre that were taken for another (or rightly for the same), the surest first."""
        study = _find(store, name)
        genres = study.report.genres
        for genre in (true, predicted):
            if genre not in genres:
                raise unknown_name("genre", genre, genres)
        return Answer(_confused(study, store, genres.index(true), genres.index(predicted)))

    @api.get("/probes", response_model=list[ProbeEntry])
    def list_saved_probes() -> Response:
        """List the trained probes that the store keeps, by name; one that is damaged is left out."""
        found = []
        for name, path, _ in kept_probes(store.path):
            try:
                found.append(ProbeEntry.of(name, load_kept(path, stamp_of(path))))
            except EmbedstoreError:
                continue
        return Answer(found)

    return api


def _find(store: EmbeddingStore, name: str) -> KeptStudy:
    """Read a study.

    Raises
    ------
    UnknownNameError, StoreFormatError
        There is none of this name; it is damaged.
    """
    names = list_studies(store.path)
    if name not in names:
        raise unknown_name("study", name, names)
    path = study_path(store.path, name)
    return _load(path, stamp_of(path))


@lru_cache(4)
def _load(path: Path, _stamp: tuple[int, ...]) -> KeptStudy:
    return KeptStudy.parse(read_study(path), path)


@lru_cache(128)
def _entry(path: Path, stamp: tuple[int, ...]) -> tuple[StudyEntry, str] | None:
    """Describe a study, and the store's state that it is of; None if it is damaged."""
    try:
        study = _load(path, stamp)
    except EmbedstoreError:
        return None
    return StudyEntry.of(path.stem, study), study.state


def _tracks(study: KeptStudy, store: EmbeddingStore) -> StudyTracks:
    here = np.isin(study.keys, store.keys())
    predicted = study.predicted[:, here]
    told = predicted >= 0
    right = (study.right[:, here] & told).sum(0) / np.maximum(told.sum(0), 1)
    several = any(len(codes) > 1 for codes in study.true) or study.report.protocol.get("task") == "multi-label"
    return StudyTracks(
        tracks=[track_id(key) for key in study.keys[here].tolist()],
        genres=list(study.report.genres),
        true=None if several else [codes[0] for codes, ok in zip(study.true, here.tolist(), strict=True) if ok],
        predicted=predicted.tolist(),
        right=right.round(4).tolist(),
    )


def _confused(study: KeptStudy, store: EmbeddingStore, true: int, predicted: int) -> Confused:
    has = np.array([true in codes for codes in study.true], dtype=bool)
    times = np.where(has & np.isin(study.keys, store.keys()), (study.predicted == predicted).sum(0), 0)
    order = np.argsort(-times, kind="stable")[: np.count_nonzero(times)]
    return Confused([ConfusedTrack(track_id(int(study.keys[row])), int(times[row])) for row in order])
