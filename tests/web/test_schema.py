"""The API against its own description: whatever Schemathesis makes up is answered as `/openapi.json` says."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from fastapi.testclient import TestClient

import cli
import probes.web
from embedstore.maps import make_map
from embedstore.pipeline import build
from embedstore.search import Searcher
from embedstore.web.app import create_app, make_jobs

pytestmark = pytest.mark.slow

PLUGINS = Path(__file__).parents[1] / "plugins"
CHECKS = {
    "positive_data_acceptance": {"enabled": False},  # no schema says that a range goes upwards, or that bytes are music
    "negative_data_rejection": {"expected-statuses": ["4xx"]},  # 413, too, is a refusal
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Serve twelve songs of two genres, with a map and a probe to be asked for, in this process: its description, and names."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs Schemathesis: pip install schemathesis")
    folder = tmp_path_factory.mktemp("schema")
    store = folder / "store"
    for number in range(12):
        path = folder / "music" / ("low" if number < 6 else "high") / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * np.sin(np.arange(8000) * (0.1 + 0.1 * number)), 8000)
    (folder / "music" / "broken.mp3").write_bytes(b"no sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGINS)
        build(folder / "music", store, encoder="toy_encoder:Toy", jobs=1)
        options = ["--store", str(store), "--folds", "2", "--seeds", "1", "--jobs", "1", "--group", "none"]
        result = CliRunner().invoke(cli.main, ["probe", *options, "--probe", "centroid"])
        assert result.exit_code == 0, result.output
        [study] = [path.stem for path in (store / "studies").glob("*.json")]
        with Searcher.open(store) as searcher:
            make_map(searcher.store, "pca")
            extensions = [probes.web.extension()]
            jobs = make_jobs(searcher, extensions)
            try:
                app = create_app(searcher, names=["testserver"], extensions=extensions, jobs=jobs)
                config = schemathesis.Config.from_dict({"checks": CHECKS})
                described = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
                client, sound = TestClient(app), (folder / "music" / "low" / "0.wav").read_bytes()
                names = {
                    "track": searcher.store.tracks()[0].id, "name": study, "true": "low", "predicted": "low", "job": "1",
                    "upload": client.post("/api/uploads", content=sound).json()["id"], "layer": 1, "method": "pca",
                    "version": client.get("/api/map").json()["version"],
                }  # fmt: skip
                yield SimpleNamespace(described=described, names=names)
            finally:
                jobs.close()


def ask(cases, names, *, wrong) -> list[int]:
    """Send what is made up, also about what is there; give the codes of the answers. What is wrong stays so."""
    import hypothesis

    codes = []

    @hypothesis.settings(
        max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=[*hypothesis.HealthCheck]
    )
    @hypothesis.given(cases, hypothesis.strategies.sampled_from(("nothing", "some", "all")))
    def send(case, is_real):
        real = {} if is_real == "nothing" else names
        case.path_parameters.update({name: real[name] for name in case.path_parameters if name in real})
        if not wrong:
            case.query.update({name: real[name] for name in case.query if name in real})
            if is_real == "all":
                case.query = {name: value for name, value in case.query.items() if name in real}
                if isinstance(case.body, dict) and "query" in case.body:
                    case.body = {"query": {"seeds": [{"what": real["track"]}]}}
        codes.append(case.call_and_validate().status_code)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # a route that takes nothing takes nothing wrong
        send()
    return codes


def test_every_route_answers_as_described(service) -> None:
    """Codes, kinds and shapes of answers to what is right and what is wrong, about what is there and what is not."""
    import schemathesis

    right, wrong = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    faults, codes = [], {}
    for operation in (found.ok() for found in service.described.get_all_operations()):
        codes[operation.label] = []
        for mode, cases in [
            *((mode, operation.as_strategy(generation_mode=mode)) for mode in (right, wrong)),
            *(("example", cases) for cases in operation.get_strategies_from_examples()),
        ]:
            try:
                codes[operation.label] += ask(cases, service.names, wrong=mode == wrong)
            except (BaseExceptionGroup, AssertionError) as error:
                faults.append(f"{operation.label}, {mode}: {error}")
    assert not faults, "\n\n".join(faults)
    assert sum(map(len, codes.values())) > 500
    never = {label for label, found in codes.items() if min(found) >= 400}
    assert never <= {"POST /api/search/audio", "POST /api/uploads"}, never  # what is made up is no sound
