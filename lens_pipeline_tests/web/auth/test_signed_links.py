"""Signed links: for one address, until a time, and for what their maker may see."""

import datetime as dt
import time
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline.web.auth.caller import Caller, CallerDep, MediaCallerDep
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.web.auth.gate_app import (
    BEARER,
    READ,
    TOKEN,
    access,
    app_without_services,
    bearer,
    client_of,
    token_of,
)

PATH = "/api/generations/p1/preview"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """An app that shows something at the places of pictures, whoever else would answer there."""
    app = app_without_services(tmp_path_factory.mktemp("guarded"), LENS_API_TOKEN=TOKEN)

    def picture(caller: MediaCallerDep) -> str:
        return "shown" if caller.sees_all else "shown to some"

    def no_picture(caller: CallerDep) -> str:
        return "no picture"

    for path, shown in (
        ("/api/generations/{name}/preview", picture),
        ("/api/projects/{name}/master-videos/{other}/video", picture),
        ("/api/generations/{name}/file", no_picture),
    ):
        app.add_api_route(path, shown, methods=["GET", "HEAD", "POST"])
        app.router.routes.insert(0, app.router.routes.pop())
    return app


@pytest.fixture(scope="module")
def visitor(guarded: FastAPI) -> Iterator[httpx.Client]:
    with client_of(guarded) as client:
        yield client


def _link(visitor: httpx.Client, path: str = PATH, **body: int) -> str:
    answer = visitor.post("/api/links", json={"paths": [path], **body}, headers=BEARER)
    assert answer.status_code == 200, answer.text
    (link,) = answer.json()["links"]
    assert link["path"] == path
    return link["url"]


@pytest.mark.parametrize(
    "path",
    [
        PATH,
        f"{PATH}?revision=abc&x=%26%20y&empty=",
        "/api/projects/pa/master-videos/m1/video",
        "/api/projects/%D0%BF%20a/master-videos/m1/video",
    ],
)
def test_a_link_needs_no_token(visitor: httpx.Client, path: str) -> None:
    assert visitor.get(path).status_code == 401
    url = _link(visitor, path)
    assert url.startswith(path.partition("?")[0])
    assert visitor.get(url).text == '"shown"'
    assert visitor.head(url).status_code == 200
    # A page of another site may embed it; that is what it is for.
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    answer = visitor.get(url, headers=elsewhere)
    assert answer.status_code == 200
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def _changed(url: str, **values: str | None) -> str:
    query = dict(parse_qsl(urlsplit(url).query)) | values
    kept = {name: value for name, value in query.items() if value is not None}
    return f"{urlsplit(url).path}?{urlencode(kept)}"


def test_a_link_is_for_its_address_alone(visitor: httpx.Client) -> None:
    """One picture shown to a stranger, and with it all of them."""
    url = _link(visitor)
    query = urlsplit(url).query
    later = str(int(dict(parse_qsl(query))["expires"]) + 1)
    for wrong in (
        f"/api/generations/p2/preview?{query}",
        f"/api/generations/p1/file?{query}",
        f"/api/generations/p1?{query}",
        f"/api/generations?{query}",
        f"/api/generations/p1/preview/?{query}",
        f"/api/generations/p2/%2e%2e/p1/preview?{query}",
        f"/api/projects/pa/master-videos/m1/video?{query}",
        f"/library?{query}",
        f"/metrics?{query}",
        _changed(url, expires=later),
        _changed(url, expires="9" * 20),
        _changed(url, expires=f"+{later}"),
        _changed(url, expires=None),
        _changed(url, signature=None),
        _changed(url, signature=""),
        _changed(url, signature="é\0"),
        _changed(url, revision="1"),
        f"{url}&expires={later}",
        f"{url}&signature=x",
    ):
        answer = visitor.get(wrong, headers={"Accept": "*/*"})
        assert answer.status_code in (401, 303, 307), wrong
        if answer.is_redirect:
            assert answer.headers["Location"].startswith("/login")
    assert visitor.post(url).status_code == 401
    assert visitor.get(url).status_code == 200


def test_a_signature_only_opens_what_takes_links(guarded: FastAPI, visitor: httpx.Client) -> None:
    """A handler that was made for callers, reached without one."""
    url = access(guarded).links.sign("/api/generations/p1/file", "", int(time.time()) + 60)
    assert visitor.get(url).status_code == 401
    assert visitor.get(url, headers=BEARER).text == '"no picture"'
    # Nor where no handler asks who is there.
    never = access(guarded).links.sign(READ, "", int(time.time()) + 60)
    assert visitor.get(never).status_code == 401


def test_a_link_expires(guarded: FastAPI, visitor: httpx.Client) -> None:
    links, now = access(guarded).links, int(time.time())
    assert visitor.get(links.sign(PATH, "", now + 60)).status_code == 200
    expired = visitor.get(links.sign(PATH, "", now - 1))
    assert expired.status_code == 401
    assert "this link has expired" in expired.json()["message"]
    expires = int(dict(parse_qsl(urlsplit(_link(visitor, seconds=60)).query))["expires"])
    assert now + 59 <= expires <= time.time() + 61


def test_a_link_is_renewed(guarded: FastAPI, visitor: httpx.Client) -> None:
    """A page that hands in the address it shows, and gets one that opens nothing."""
    old = access(guarded).links.sign(PATH, "revision=abc", int(time.time()) - 1)
    assert visitor.get(old).status_code == 401
    url = _link(visitor, old)
    assert visitor.get(url).text == '"shown"'
    assert parse_qsl(urlsplit(url).query)[0] == ("revision", "abc")


def test_a_link_does_not_outlive_the_token_of_its_maker(
    guarded: FastAPI, visitor: httpx.Client
) -> None:
    """A token for an hour that makes links for a week, again and again."""
    tokens = access(guarded).tokens
    assert tokens is not None
    until = dt.datetime.fromtimestamp(int(time.time()) + 600, dt.UTC)
    headers = bearer(tokens.scoped(Caller(project_id="pa"), until))
    body = {"paths": ["/api/projects/pa/master-videos/m1/video"], "seconds": 7 * 24 * 3600}
    made = visitor.post("/api/links", json=body, headers=headers).json()
    assert dt.datetime.fromisoformat(made["expires_at"]) == until
    (link,) = made["links"]
    assert f"expires={int(until.timestamp())}" in link["url"]


def test_keys_of_others_open_nothing(
    visitor: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = app_without_services(
        tmp_path_factory.mktemp("other"), LENS_API_TOKEN="another-horse-battery"
    )
    url = access(other).links.sign(PATH, "", int(time.time()) + 60)
    assert visitor.get(url).status_code == 401


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"paths": []}, "invalid_request"),
        ({"paths": [PATH] * 201}, "invalid_request"),
        ({"paths": ["/" + "a" * 1000]}, "invalid_request"),
        ({"paths": [PATH], "seconds": 0}, "invalid_request"),
        ({"paths": [PATH], "seconds": 10**9}, "invalid_request"),
        ({"paths": "x"}, "invalid_request"),
        ({"paths": ["/api/generations"]}, "invalid_path"),
        ({"paths": ["/metrics"]}, "invalid_path"),
        ({"paths": [f"https://evil.example{PATH}"]}, "invalid_path"),
        ({"paths": [f"/{PATH}"]}, "invalid_path"),
        ({"paths": [f"{PATH}#x"]}, "invalid_path"),
        ({"paths": ["/api/generations/a%2Fb/preview"]}, "invalid_path"),
    ],
)
def test_bad_questions(visitor: httpx.Client, body: dict[str, object], code: str) -> None:
    answer = visitor.post("/api/links", json=body, headers=BEARER)
    assert (answer.status_code, answer.json()["error"]) == (400, code)


def test_a_link_leads_nowhere_else(visitor: httpx.Client) -> None:
    """A name with a line break, a quote or a query of its own in it."""
    for name in ("%0d%0aSet-Cookie:a", "%22%3E%3Cscript%3E", "%3Fexpires=1", "%23", "%25", "%00"):
        url = _link(visitor, f"/api/generations/{name}/preview")
        assert not set(url) & set('\r\n"<>#\0 ')
        assert url.count("?") == 1
        assert visitor.get(url).status_code == 200


def test_links_are_for_what_their_maker_may_see(site: Site, guarded_app: FastAPI) -> None:
    """A token for one user that signs its way to all others' pictures."""
    site.add("a1", "https://example.org/a.jpg", user_id="ann")
    site.add("b1", "https://example.org/b.jpg", user_id="bob")
    of = "/api/{}".format
    mine, theirs, none = (of(f"generations/{name}/file") for name in ("a1", "b1", "zz"))
    project, other = (of(f"projects/{name}/master-videos/m/video") for name in ("pa", "pb"))
    cases = (
        (Caller(user_id="ann"), [[mine]], [[theirs], [mine, theirs], [none], [project]]),
        (Caller(project_id="pa"), [[project]], [[other], [project, other], [mine]]),
    )
    with client_of(guarded_app) as visitor:
        for caller, allowed, refused in cases:
            headers = bearer(token_of(guarded_app, caller))
            for paths in allowed:
                answer = visitor.post("/api/links", json={"paths": paths}, headers=headers)
                assert len(answer.json()["links"]) == len(paths)
            for paths in refused:
                answer = visitor.post("/api/links", json={"paths": paths}, headers=headers)
                assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


def test_an_open_app_signs_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Pages that need to know whether there is a token."""
    home = tmp_path_factory.mktemp("open")
    with client_of(app_without_services(home)) as visitor:
        answer = visitor.post("/api/links", json={"paths": [PATH]})
        url = answer.json()["links"][0]["url"]
    # After a restart, too.
    again = access(app_without_services(home)).links
    assert again.covers(PATH, urlsplit(url).query.encode())
