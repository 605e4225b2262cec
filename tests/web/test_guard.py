"""Who may ask, and how much."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from embedstore.errors import AudioError
from embedstore.search import SearchResult
from embedstore.web import app as routes
from embedstore.web.guard import HEADERS
from embedstore.web.uploads import Bodies


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765", "[::1]", "192.168.1.7:80"]
)
def test_addresses_and_own_names_are_ours(client, host) -> None:
    """Whatever the port: it may be forwarded."""
    assert client.get("/api/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        ":",
        "[evil]",
        "user@127.0.0.1",
    ],
)
def test_foreign_hosts_are_refused(client, host) -> None:
    """A name that leads here by a trick of DNS is not ours."""
    answer = client.get("/api/health", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "BadRequest")


def test_a_page_of_another_site_may_not_ask(client) -> None:
    """A page of ours may; nobody is told that others may."""
    assert client.get("/api/health", headers={"Origin": "http://127.0.0.1:8765"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        answer = client.get("/api/health", headers={"Origin": origin})
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_token_is_asked_for_everywhere(searcher, client_of) -> None:
    """Missing, wrong and half ones are refused on every path; the right one opens, however Bearer is spelled."""
    client = client_of(searcher, token="s3cret")  # noqa: S106
    paths = ("/api/health", "/openapi.json", "/api/tracks/0/audio", "/nothing")
    for given in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer s3cre",
        "Bearer s3crets",
        "Basic s3cret",
        "s3cret",
        "Bearer s3cr\u00e9t",
    ):
        headers = {} if given is None else {"Authorization": given.encode("latin-1")}
        for path in paths:
            answer = client.get(path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    for given in ("Bearer s3cret", "bearer s3cret"):
        assert client.get("/api/health", headers={"Authorization": given}).status_code == 200


def test_every_answer_carries_the_headers(client, searcher, monkeypatch) -> None:
    """Errors, refusals and files included, and a fault of ours."""

    def fail(*_, **__):
        raise RuntimeError

    monkeypatch.setattr(searcher, "search", fail)
    fault = client.get("/api/tracks/00000000000003e8/neighbors")
    assert fault.status_code == 500
    for answer in (
        fault,
        client.get("/api/health"), client.get("/nothing"), client.get("/api/health", headers={"Host": "evil.example"}),
        client.get("/api/tracks/00000000000003e8/audio"), client.post("/api/search", content=b"{"),
    ):  # fmt: skip
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_large_bodies_are_refused(client, searcher, monkeypatch) -> None:
    """By their stated length before they are read, and in pieces where none is stated; an upload may be larger."""
    too_large = b"[" * (routes.LARGEST_BODY + 1)
    json = {"Content-Type": "application/json"}
    for content in (too_large, iter([too_large[:50_000], too_large[50_000:]])):
        answer = client.post("/api/search", content=content, headers=json)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            413,
            "the body of the request is larger than 65,536 bytes",
        )
    answer = client.post("/api/search/audio", headers={"Content-Length": str(routes.LARGEST_UPLOAD + 1)}, content=b"")
    assert answer.status_code == 413
    for length in ("-1", "x", "9" * 30):
        answer = client.post("/api/search", headers={**json, "Content-Length": length}, content=b"{}")
        assert answer.status_code in (413, 422)
    monkeypatch.setattr(searcher, "hear", lambda *_, **__: None)
    monkeypatch.setattr(searcher, "search", lambda *_, **__: SearchResult("x", 1, ()))
    assert client.post("/api/search/audio", content=too_large).status_code == 200


@pytest.fixture
def visit(searcher, monkeypatch):
    """Send an upload, by what is received of it; give the code of its answer, and what the searcher got."""

    def refuse(*_, **__):
        raise AudioError("no sound in it")

    async def visit(app, receive):
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/api/search/audio", "raw_path": b"", "query_string": b"", "headers": headers, "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "scheme": "http", "client": None, "server": None, "root_path": ""}  # fmt: skip
        codes = []

        async def send(message):
            codes.append(message.get("status"))

        await app(scope, receive, send)
        return codes[0] if codes else None

    monkeypatch.setattr(searcher, "hear", refuse)
    return visit


async def whole():
    """Send all at once."""
    return {"type": "http.request", "body": b"noise"}


async def silent():
    """Send nothing."""
    await asyncio.Event().wait()


def pieces(pause):
    """Send a byte from time to time, for ever."""

    async def receive():
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": b"x", "more_body": True}

    return receive


def test_who_sends_slowly_keeps_nobody_waiting(searcher, visit, monkeypatch) -> None:
    """Others are answered meanwhile; who is silent, or takes too long in all, is sent away, and leaves nothing behind."""
    uploads = Bodies(1, 10**6, pause=0.1, longest=0.25)
    monkeypatch.setattr(routes, "Bodies", lambda *_: uploads)
    app = routes.create_app(searcher)

    async def main():
        slow = [asyncio.create_task(visit(app, one)) for one in (silent, silent, pieces(0.04), pieces(0.3))]
        await asyncio.sleep(0.05)
        assert [await visit(app, whole) for _ in range(2)] == [422, 422]
        assert not any(one.done() for one in slow)
        assert await asyncio.gather(*slow) == [408] * 4

    asyncio.run(main())
    assert uploads._held == 0


def test_uploads_are_bounded_in_all(searcher, visit, monkeypatch) -> None:
    """What waits together is; who leaves makes room; and so many are decoded at once, the others wait."""
    uploads, busy = Bodies(2, 20), []
    monkeypatch.setattr(routes, "Bodies", lambda *_: uploads)
    app = routes.create_app(searcher)

    def hear(*_, **__):
        busy.append(1)
        time.sleep(0.02)
        busy.append(-1)
        raise AudioError("no sound in it")

    async def main():
        gone, left = asyncio.Event(), []

        async def leaving():
            if not left:
                left.append(True)
                return {"type": "http.request", "body": bytes(18), "more_body": True}
            await gone.wait()
            return {"type": "http.disconnect"}

        waiting = asyncio.create_task(visit(app, leaving))
        await asyncio.sleep(0.02)
        assert await visit(app, whole) == 503
        gone.set()
        await asyncio.gather(waiting, return_exceptions=True)
        monkeypatch.setattr(searcher, "hear", hear)
        assert await asyncio.gather(*(visit(app, whole) for _ in range(4))) == [422] * 4

    asyncio.run(main())
    assert max(itertools.accumulate(busy)) == 2
    assert uploads._held == 0


def test_what_nobody_waits_for_is_not_heard(searcher, visit, monkeypatch) -> None:
    """Who hangs up while a sound is heard, or waits for a place, has it left; so has who waits when the service ends."""
    jobs = routes.make_jobs(searcher, ())
    monkeypatch.setattr(routes, "Bodies", lambda *_: Bodies(1, 10**6))
    app, heard, gone = routes.create_app(searcher, jobs=jobs), [], asyncio.Event()

    def hear(_path, *, wanted, longest, keep_windows):
        assert (longest, keep_windows) == (7200, False)
        heard.append("begun")
        end = time.monotonic() + 5
        while wanted() and time.monotonic() < end:
            time.sleep(0.002)
        heard.append("left" if time.monotonic() < end else "late")
        raise AudioError("nobody waits for it any more")

    def leaving():
        sent = []

        async def receive():
            if not sent:
                sent.append(True)
                return await whole()
            await gone.wait()
            return {"type": "http.disconnect"}

        return receive

    async def main():
        both = [asyncio.create_task(visit(app, leaving())) for _ in range(2)]
        while not heard:  # noqa: ASYNC110 - what it waits for is in a thread
            await asyncio.sleep(0.002)
        gone.set()
        await asyncio.gather(*both)
        assert heard == ["begun", "left"]
        gone.clear()
        last = asyncio.create_task(visit(app, leaving()))
        while len(heard) < 3:  # noqa: ASYNC110 - what it waits for is in a thread
            await asyncio.sleep(0.002)
        jobs.close()
        await last

    monkeypatch.setattr(searcher, "hear", hear)
    asyncio.run(main())
    assert heard == ["begun", "left"] * 2
