"""Jobs: one at a time, each in a process of its own, which speaks lines of JSON and ends with the service."""

from __future__ import annotations

import os
import time

import pytest
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from embedstore.child import Child
from embedstore.errors import ParameterError, UnknownNameError
from embedstore.web import jobs as module
from embedstore.web.extension import Extension
from embedstore.web.jobs import Jobs
from embedstore.web.offers import Job

SCRIPT = """
import json, sys, threading, os
asked = json.loads(sys.stdin.readline())
say = lambda **what: print(json.dumps(what), flush=True)
{}
"""


class Options(BaseModel):
    """Of a job that tests start."""

    model_config = ConfigDict(extra="forbid", strict=True)

    times: int = 3


@pytest.fixture
def make(shelf, monkeypatch):
    """Make jobs of one kind whose process runs these lines."""
    made = []

    def make(script):
        monkeypatch.setattr(module, "Child", lambda _: Child(["-S", "-c", SCRIPT.format(script)]))
        made.append(Jobs(shelf.store, {"count": Job("somewhere:function", Options)}))
        return made[-1]

    yield make
    for one in made:
        one.close()


WAITS = "say(done=1, total=2, message='begun'); sys.stdin.read()"


def until(jobs, seen) -> None:
    """Wait until the newest job is as described."""
    end = time.monotonic() + 10
    while not seen(jobs.list()[0]):
        assert time.monotonic() < end, jobs.list()
        time.sleep(0.005)


def test_a_job_is_followed_to_its_end(make, shelf) -> None:
    """It is told what to do, and what it says is seen; the newest comes first."""
    jobs = make("say(done=1, total=2, message=asked['store']); say(result=f'made {asked[\"options\"][\"times\"]}')")
    first = jobs.start("count", {})
    jobs.wait()
    assert (first.id, first.state) == ("1", "running")
    second = jobs.start("count", {"times": 7})
    jobs.wait()
    done, before = jobs.list()
    assert (done.id, done.state, done.result, done.options) == (second.id, "done", "made 7", {"times": 7})
    assert (before.result, before.options) == ("made 3", {"times": 3})
    assert (done.done, done.total) == (2, 2)
    assert jobs.running() is None


def test_what_fails_says_why(make) -> None:
    """A reason that it gives, and a death."""
    for script, said in (
        ("say(error='the disk is full')", "the disk is full"),
        ("os.kill(os.getpid(), 9)", "its process died (Killed)"),
        ("raise RuntimeError('oh')", "its process died (exit code 1: RuntimeError: oh)"),
    ):
        jobs = make(script)
        jobs.start("count", {})
        jobs.wait()
        assert (jobs.list()[0].state, jobs.list()[0].message, jobs.list()[0].result) == ("failed", said, None)


def test_what_killed_services_left_goes(shelf, tmp_path, monkeypatch) -> None:
    """Not what one that runs holds, nor what has just been made, nor what is called otherwise; its own goes at its end."""
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    running = Jobs(shelf.store, {})
    left, new, other = (tmp_path / name for name in ("embedstore-jobs-left", "embedstore-jobs-new", "other"))
    for folder in (left, new, other):
        folder.mkdir()
        (folder / "copy.flac").write_bytes(b"x")
    for folder in (left, other, running.folder):
        os.utime(folder, (0, 0))
    (tmp_path / "embedstore-jobs-link").symlink_to(other)
    later = Jobs(shelf.store, {})
    assert [one.exists() for one in (left, new, other / "copy.flac", running.folder, later.folder)] == [False] + [
        True
    ] * 4
    running.close()
    later.close()
    assert not running.folder.exists()


def test_what_is_not_understood_fails(make) -> None:
    """Half a line, no JSON, something else, bytes that are no text; its process is ended, and the next job runs."""
    for script in (
        "sys.stdout.write('{\"done\": 1')", "print('hello')", "say(step=3)", "say(done='1', total=2, message='')", "print([1])",
        "sys.stdout.buffer.write(bytes([255, 10]))", "print('1', flush=True); sys.stdin.read()", "say(result=3)",
    ):  # fmt: skip
        jobs = make(script)
        for _ in range(2):
            jobs.start("count", {})
            jobs.wait()
            assert jobs.list()[0].state == "failed", script
            assert jobs.list()[0].message.startswith("its process said what no job says: b'")
            assert not jobs._child.is_alive()


def test_what_cannot_start_is_not_remembered(make, monkeypatch) -> None:
    """No process or no thread is to be had: an error, no job that runs for ever, and no process that is left."""
    jobs, started = make(WAITS), []

    def no_process(_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def no_thread(_):
        raise RuntimeError("can't start new thread")

    def kept(arguments, begin=module.Child):
        started.append(begin(arguments))
        return started[0]

    for place, name, fault in ((module, "Child", no_process), (module.threading.Thread, "start", no_thread)):
        with monkeypatch.context() as patch:
            patch.setattr(module, "Child", kept)
            patch.setattr(place, name, fault)
            with pytest.raises(OSError, match=r"Resource temporarily unavailable|can't start new thread"):
                jobs.start("count", {})
        assert jobs.list() == []
    assert [child.is_alive() for child in started] == [False]
    assert jobs.start("count", {}).id == "1"


def test_who_is_stopped_stays_so(make, monkeypatch) -> None:
    """Whatever its process says at that moment."""
    jobs = make(WAITS)
    one = jobs.start("count", {})
    until(jobs, lambda job: job.message == "begun")
    jobs.stop(one.id)
    before = jobs.list()[0]
    for said in ({"done": 2, "total": 2, "message": "late"}, {"state": "done", "result": "x"}):
        jobs._say(one.id, **said)
        assert jobs.list()[0] == before


def test_one_runs_at_a_time_and_can_be_stopped(make) -> None:
    """Who asks for another is told which runs; one that has ended stays as it is."""
    jobs = make(WAITS)
    one = jobs.start("count", {})
    with pytest.raises(HTTPException, match=r"the job 1 \(count\) is running; wait for it, or stop it") as refused:
        jobs.start("count", {})
    assert refused.value.status_code == 409
    until(jobs, lambda job: job.message == "begun")
    child = jobs._child
    assert jobs.stop(one.id).state == "stopped"
    jobs.wait()
    assert not child.is_alive()
    assert jobs.stop(one.id) == jobs.list()[0]
    assert (jobs.list()[0].state, jobs.list()[0].done) == ("stopped", 1)
    with pytest.raises(UnknownNameError, match="there is no job '9'"):
        jobs.stop("9")


def test_what_is_asked_for_is_checked_before_anything_starts(make) -> None:
    """The kind and each option."""
    jobs = make(WAITS)
    with pytest.raises(UnknownNameError, match="there is no job 'cook'; known: count"):
        jobs.start("cook", {})
    with pytest.raises(ParameterError, match="count: times: Input should be a valid integer"):
        jobs.start("count", {"times": "3"})
    with pytest.raises(ParameterError, match="count: target: Extra inputs"):
        jobs.start("count", {"target": "os:system"})
    assert jobs.list() == []


def test_a_service_that_ends_stops_what_runs(make) -> None:
    """And starts no more; nothing is left behind."""
    jobs = make(WAITS)
    jobs.start("count", {})
    child, folder = jobs._child, jobs.folder
    jobs.close()
    assert not child.is_alive()
    assert not folder.exists()
    with pytest.raises(HTTPException, match="ending"):
        jobs.start("count", {})


def test_only_the_last_are_remembered(make, monkeypatch) -> None:
    """A service that runs for long does not swell."""
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    jobs = make("say(result='x')")
    for _ in range(3):
        jobs.start("count", {})
        jobs.wait()
    assert [job.id for job in jobs.list()] == ["3", "2"]


def test_the_routes(make, client_of, searcher) -> None:
    """Start, list, stop; faults are told in the one shape."""
    jobs = make(WAITS)
    with client_of(searcher, jobs=jobs) as client:
        assert client.get("/api/jobs").json() == []
        started = client.post("/api/jobs", json={"kind": "count", "options": {"times": 5}})
        assert (started.status_code, started.json()["options"]) == (202, {"times": 5})
        for body, code in (
            ({"kind": "count"}, 409), ({"kind": "no"}, 404), ({"kind": "count", "options": {"x": 1}}, 400), ({"kind": "count", "more": 1}, 422),
            ({"options": {}}, 422), ({"kind": "count", "options": []}, 422),
        ):  # fmt: skip
            answer = client.post("/api/jobs", json=body)
            assert (answer.status_code, [*answer.json()]) == (code, ["error"])
        assert client.delete("/api/jobs/1").json()["state"] == "stopped"
        assert client.delete("/api/jobs/2").status_code == 404


def test_an_extension_adds_routes_jobs_and_samples(client_of, searcher) -> None:
    """Below /api, of its kinds, described as ours are."""
    from dataclasses import dataclass

    from fastapi import APIRouter

    @dataclass(frozen=True)
    class Count:
        """A number.

        Attributes
        ----------
        tracks : int
            How many.
        """

        tracks: int

    def routes(service):
        api = APIRouter()

        @api.get("/count", response_model=Count)
        def count():
            return Count(len(service.store))

        return api

    added = Extension(routes, {"count": Job("somewhere:function", Options)}, samples=(Count(3),))
    with client_of(searcher, extensions=[added]) as client:
        assert client.get("/api/count").json() == {"tracks": 10}
        assert "known: count, map" in client.post("/api/jobs", json={"kind": "no"}).json()["error"]["message"]
        model = client.get("/openapi.json").json()["components"]["schemas"]["Count"]
        assert (model["description"], model["examples"]) == ("A number.", [{"tracks": 3}])
        assert model["properties"]["tracks"]["description"] == "How many."


# -- the real process -------------------------------------------------------------------------------------------


class Anything(BaseModel):
    """Of the functions below."""

    do: str = "count"


def work(store, progress, do):
    """Do what a job may do."""
    from embedstore.errors import StoreError

    progress(1, 4, "one")
    print("a library that prints")  # noqa: T201
    match do:
        case "refuse":
            raise StoreError(f"{store} is shut")
        case "crash":
            os.abort()
        case "wait":
            time.sleep(60)
    return f"{do} of {store}"


@pytest.mark.slow
def test_the_real_process(shelf, tmp_path, monkeypatch) -> None:
    """A function by its name: its result, its error, its death; it ends with its service however that ends."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_work.py").write_text(f"import os, time\n{__import__('inspect').getsource(work)}")
    jobs = Jobs(shelf.store, {"work": Job("some_work:work", Anything)})
    for do, state, said in (
        ("count", "done", f"count of {shelf.store.path}"), ("refuse", "failed", f"{shelf.store.path} is shut"),
        ("crash", "failed", "its process died (Aborted: a library that prints)"),
    ):  # fmt: skip
        jobs.start("work", {"do": do})
        jobs.wait()
        ended = jobs.list()[0]
        assert (ended.state, ended.result or ended.message) == (state, said)
    jobs.start("work", {"do": "wait"})
    until(jobs, lambda job: job.message == "one")
    process = jobs._child._process
    jobs._child.stdin.close()  # as when the service is killed
    assert process.wait(10) == 1
    jobs.wait()
    jobs.close()
