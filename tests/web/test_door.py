"""The files of the page, what they may load, and how a browser gets past the token."""

from __future__ import annotations

import re

import pytest

from embedstore.web import Address
from embedstore.web.guard import PAGE_POLICY
from embedstore.web.routes.page import PAGE


def test_the_files_of_the_page(client) -> None:
    """Each has its type, a tag by which it is asked for again, and the policy; nothing else of the package is sent."""
    index = client.get("/")
    assert (index.status_code, index.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert index.content == (PAGE / "index.html").read_bytes()
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    for path in PAGE.iterdir():
        answer = client.get(f"/page/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-security-policy"] == PAGE_POLICY
        assert answer.headers["content-type"] == kinds.get(path.suffix, "text/html; charset=utf-8")
        again = client.get(f"/page/{path.name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("../app.py", "%2e%2e/app.py", "..%2fapp.py", "no.js", "", "page"):
        assert client.get(f"/page/{path}").status_code == 404
    assert client.get("/api/health").headers["content-security-policy"] != PAGE_POLICY


def test_the_page_needs_no_network() -> None:
    """Nothing in it is of another place, and no script or style stands in the document, as the policy forbids."""
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.findall(r"(?:src|href|url|import|from|fetch)\s*[=(]?\s*[\"'(]+\s*(?:https?:)?//", text), path
    assert not re.findall(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|style=", (PAGE / "index.html").read_text())


@pytest.mark.parametrize("token", ["s3cret", "a;b=c,\"d'%20/\\"])
def test_a_browser_opens_the_printed_address(searcher, client_of, token) -> None:
    """The token becomes a cookie, which scripts cannot read and other sites cannot post with, and leaves the address."""
    client = client_of(searcher, token=token)
    printed = Address("http://127.0.0.1:8765", token, "/store", 10).page
    answer = client.get(printed.removeprefix("http://127.0.0.1:8765"), follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    said = answer.headers["set-cookie"]
    assert re.fullmatch(r"embedstore-8765=[^ ;,\"]+; HttpOnly; Path=/; SameSite=lax", said)
    for path in ("/", "/api/health", "/api/tracks/00000000000003e8/audio"):
        assert client.get(path).status_code == 200
    client.cookies.clear()
    assert client.get("/api/health").status_code == 401


def test_who_has_no_token_is_told_where_it_is(searcher, client_of) -> None:
    """The page says so for people, everything else for programs; a wrong one, and that of another port, open nothing."""
    client = client_of(searcher, token="s3cret")  # noqa: S106
    for path, headers in (
        ("/", {}), ("/?token=wrong", {}), ("/?token=", {}), ("/", {"Cookie": "embedstore-8765=wrong"}),
        ("/", {"Cookie": "embedstore-1=s3cret"}), ("/", {"Cookie": "embedstore-8765=%C3"}),
    ):  # fmt: skip
        answer = client.get(path, headers=headers, follow_redirects=False)
        assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert "embedstore serve" in answer.text
        assert "set-cookie" not in answer.headers
    assert client.get("/page/main.js").status_code == 401
    assert client.get("/api/health?token=s3cret").status_code == 401
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/?token=s3cret", headers={"Host": "evil.example"}).status_code == 400
    evil = {"Cookie": "embedstore-8765=s3cret", "Origin": "http://evil.example"}
    assert client.post("/api/jobs", json={}, headers=evil).status_code == 403
