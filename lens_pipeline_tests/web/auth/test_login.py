"""The login page, its cookie, and what other pages try with either."""

import re
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline.web.auth.access import Limits
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.auth.tokens import Pass
from lens_pipeline_tests.web.auth.gate_app import (
    READ,
    TOKEN,
    WRITE,
    WRITTEN,
    access,
    app_without_services,
    client_of,
    origin,
    token_of,
)

HTTPS = {"X-Forwarded-Proto": "https"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    limits = Limits(wrong_logins_a_minute=1000)
    return app_without_services(tmp_path_factory.mktemp("guarded"), limits, LENS_API_TOKEN=TOKEN)


@pytest.fixture(scope="module")
def address(guarded: FastAPI) -> Iterator[str]:
    with client_of(guarded) as client:
        yield str(client.base_url)


@pytest.fixture
def browser(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client


def _form(browser: httpx.Client, page: httpx.Response | None = None) -> dict[str, str]:
    """What the form would send, the token apart."""
    page = page or browser.get("/login")
    return {
        name: value.replace("&#39;", "'").replace("&#34;", '"').replace("&amp;", "&")
        for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text)
    }


def _log_in(
    browser: httpx.Client, token: str = TOKEN, headers: dict[str, str] | None = None, **form: str
) -> httpx.Response:
    sent = {**_form(browser), "token": token, **form}
    return browser.post("/login", data=sent, headers={**origin(browser), **(headers or {})})


def _cookie(answer: httpx.Response, name: str = "lens_session") -> SimpleCookie:
    found = [c for c in answer.headers.get_list("set-cookie") if c.startswith(f"{name}=")]
    assert len(found) == 1, answer.headers
    return SimpleCookie(found[0])


def test_from_a_page_by_the_login_back_to_it(browser: httpx.Client) -> None:
    asked = browser.get("/library?user_id=ann&x=%26y")
    assert asked.status_code == 303
    page = browser.get(asked.headers["Location"])
    assert page.status_code == 200
    assert _form(browser, page)["next"] == "/library?user_id=ann&x=%26y"
    form = _form(browser, page) | {"token": f" {TOKEN}\n"}
    done = browser.post("/login", data=form, headers=origin(browser))
    assert (done.status_code, done.headers["Location"]) == (303, "/library?user_id=ann&x=%26y")
    assert browser.get(READ).status_code == 200
    # Also behind a proxy with a password of its own.
    assert browser.get(READ, headers={"Authorization": "Basic eDp5"}).status_code == 200
    # Nothing more to do there.
    assert browser.get("/login", params={"next": "/masters"}).headers["Location"] == "/masters"


def test_the_cookie_is_kept_from_scripts_and_other_sites(browser: httpx.Client) -> None:
    cookie = _cookie(_log_in(browser))["lens_session"]
    assert cookie["httponly"] and cookie["samesite"] == "lax" and cookie["path"] == "/"
    assert 0 < int(cookie["max-age"]) <= 7 * 24 * 3600
    assert not cookie["secure"]
    assert TOKEN not in cookie.value


def test_behind_tls_the_cookie_is_for_tls_alone(browser: httpx.Client) -> None:
    """A session that travels in the clear because of one http:// link."""
    browser.headers.update(HTTPS)
    answer = _log_in_by_hand(browser)
    cookie = _cookie(answer, "__Host-lens_session")["__Host-lens_session"]
    assert cookie["secure"] and cookie["path"] == "/" and not cookie["domain"]
    with_it = {"Cookie": f"__Host-lens_session={cookie.value}"}
    assert browser.get(READ, headers=with_it).status_code == 200
    # A name that plain HTTP, or a neighbouring host, may have set is not looked at.
    tossed = {"Cookie": f"lens_session={cookie.value}"}
    assert browser.get(READ, headers=tossed).status_code == 401


def _log_in_by_hand(browser: httpx.Client) -> httpx.Response:
    """As `_log_in`; the client keeps Secure cookies from plain HTTP."""
    page = browser.get("/login")
    nonce = _cookie(page, "lens_login")["lens_login"]
    assert nonce["secure"] and nonce["httponly"] and nonce["samesite"] == "strict"
    headers = {**origin(browser), "Cookie": f"lens_login={nonce.value}"}
    return browser.post("/login", data={**_form(browser, page), "token": TOKEN}, headers=headers)


def test_a_scoped_token_logs_in_within_its_scope(guarded: FastAPI, browser: httpx.Client) -> None:
    _log_in(browser, token_of(guarded, Caller(user_id="ann")))
    assert browser.get(READ).status_code == 200
    answer = browser.get("/api/generations", params={"user_id": "bob"})
    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert browser.get("/metrics").status_code == 403


def test_logging_out(browser: httpx.Client) -> None:
    _log_in(browser)
    out = browser.post("/logout", headers=origin(browser))
    assert (out.status_code, out.headers["Location"]) == (303, "/login")
    assert browser.get(READ).status_code == 401


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN * 2, "lens_x.y", "a\0b", "é" * 9])
def test_a_wrong_token(browser: httpx.Client, token: str) -> None:
    answer = _log_in(browser, token)
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert "lens_session" not in answer.headers.get("set-cookie", "")
    assert browser.get(READ).status_code == 401


def test_tampered_cookies(guarded: FastAPI, browser: httpx.Client) -> None:
    tokens = access(guarded).tokens
    assert tokens is not None
    good = _cookie(_log_in(browser))["lens_session"].value
    payload, _, signature = good.rpartition(".")
    other = tokens.session(Pass(Caller(user_id="ann")), 60)[0].rpartition(".")[0]
    expired = tokens.session(Pass(Caller()), -1)[0]
    browser.cookies.clear()
    for value in (
        payload,
        f"{payload}.",
        f"{other}.{signature}",
        f"{payload}x.{signature}",
        f"{payload}.{signature[::-1]}",
        expired,
        TOKEN,
        "",
        "." * 50,
        "é",
    ):
        header = {b"Cookie": b"lens_session=" + value.encode()}
        assert browser.get(READ, headers=header).status_code == 401, value
    assert browser.get(READ, headers={"Cookie": f"lens_session={good}"}).status_code == 200


FOREIGN = {
    "another site": {"Origin": "https://evil.example"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "a page in a file": {"Origin": "null"},
    "nobody says who": {},
    "the browser says so": {"Sec-Fetch-Site": "cross-site"},
    "a neighbour": {"Sec-Fetch-Site": "same-site"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
def test_other_pages_cannot_use_the_cookie(browser: httpx.Client, headers: dict[str, str]) -> None:
    """Whatever the API can do, done by a page that somebody looks at (CSRF)."""
    _log_in(browser)
    assert browser.post(WRITE, json=WRITTEN, headers=origin(browser)).status_code == 200
    for path in (WRITE, "/logout"):
        answer = browser.post(path, json=WRITTEN, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "foreign_origin")
    assert browser.get(READ).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
def test_other_pages_cannot_log_somebody_in(browser: httpx.Client, headers: dict[str, str]) -> None:
    """A victim who works, unknowing, in the attacker's account."""
    form = {**_form(browser), "token": TOKEN}
    answer = browser.post("/login", data=form, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "foreign_origin")


def test_the_form_must_be_ours_and_this_browsers(address: str, browser: httpx.Client) -> None:
    with httpx.Client(base_url=address) as other:
        theirs = _form(other)["form"]
    for form in ("", "x", theirs, theirs[:-2]):
        answer = _log_in(browser, form=form)
        assert answer.status_code == 403, form
        assert "lens_session" not in answer.headers.get("set-cookie", "")
    form = {**_form(browser), "token": TOKEN}
    browser.cookies.clear()
    for cookie in (b"", b"lens_login=", b"lens_login=\xe9"):
        headers = {**origin(browser), "Cookie": cookie}
        assert browser.post("/login", data=form, headers=headers).status_code == 403, cookie


ELSEWHERE = [
    "https://evil.example/",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    "javascript:alert(1)",
    "evil.example",
    "https:evil.example",
    "/library\r\nSet-Cookie: a=b",
    "/é",
    "",
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_the_login_leads_to_no_other_site(browser: httpx.Client, path: str) -> None:
    """A link to our login that ends at a copy of it which asks again (open redirect)."""
    done = _log_in(browser, next=path)
    assert (done.status_code, done.headers["Location"]) == (303, "/")
    assert browser.get("/login", params={"next": path}).headers["Location"] == "/"
    assert "evil" not in str(done.headers)


def test_the_redirect_to_the_login_stays_here(browser: httpx.Client) -> None:
    for path in ("//evil.example/x", "/%2f%2fevil.example", "/x%0d%0aSet-Cookie:a=b", "/\\evil"):
        answer = browser.get(f"http://{browser.base_url.netloc.decode()}{path}")
        assert answer.status_code == 303
        location = urlsplit(answer.headers["Location"])
        assert (location.netloc, location.path) == ("", "/login")
        assert "set-cookie" not in answer.headers
        (wanted,) = parse_qs(location.query)["next"]
        shown = browser.get("/login", params={"next": wanted})
        assert _form(browser, shown)["next"] in (wanted, "/")
        assert not _form(browser, shown)["next"].startswith(("//", "/\\"))


def test_what_strangers_wrote_is_shown_as_text(browser: httpx.Client) -> None:
    page = browser.get("/login", params={"next": '/"><script>alert(1)</script>'})
    assert "<script" not in page.text


def test_no_more_is_read_than_a_form_has(browser: httpx.Client) -> None:
    """A megabyte of memory for each of a thousand connections of somebody nobody knows."""
    for path in ("/login", "/logout"):
        answer = browser.post(path, content=b"x" * 64 * 1024, headers=origin(browser))
        assert (answer.status_code, answer.json()["error"]) == (413, "too_large")


def test_guessing_at_the_login_is_limited(tmp_path: Path) -> None:
    app = app_without_services(tmp_path, Limits(wrong_logins_a_minute=3), LENS_API_TOKEN=TOKEN)
    with client_of(app) as browser:
        answers = [_log_in(browser, f"guess-{n}") for n in range(5)]
        assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 2
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 120
        assert 'role="alert"' in answers[-1].text
        # It may be of another person behind the same proxy.
        assert _log_in(browser).status_code == 303


@pytest.mark.slow
def test_the_limit_is_each_clients_own_where_a_proxy_is_trusted(tmp_path: Path) -> None:
    """One attacker who keeps everybody out, or a header that makes anybody somebody else."""
    for name, trusted, statuses in (
        ("trusted", "127.0.0.1", [401, 401, 401]),
        ("not", "10.0.0.0/8", [401, 429, 429]),
        ("unset", "", [401, 429, 429]),
    ):
        app = app_without_services(
            tmp_path / name,
            Limits(wrong_logins_a_minute=1),
            LENS_API_TOKEN=TOKEN,
            LENS_TRUSTED_PROXIES=trusted,
        )
        with client_of(app) as browser:
            found = [
                _log_in(browser, "guess", headers={"X-Forwarded-For": f"203.0.113.{n}"})
                for n in range(3)
            ]
        assert [answer.status_code for answer in found] == statuses, name


@pytest.mark.parametrize(
    ("accepted", "language", "word"),
    [
        ("ru-RU,ru;q=0.9,en;q=0.8", "ru", "Войти"),
        ("en;q=0.3,ru;q=0.7", "ru", "Войти"),
        ("de,en;q=0.5", "en", "Log in"),
        ("", "en", "Log in"),
    ],
)
def test_the_language_is_the_browsers(
    browser: httpx.Client, accepted: str, language: str, word: str
) -> None:
    page = browser.get("/login", headers={"Accept-Language": accepted})
    assert f'<html lang="{language}">' in page.text and word in page.text
    assert page.headers["Content-Language"] == language


def test_the_page_needs_nothing_that_is_not_open(browser: httpx.Client) -> None:
    """A login page without its style, or one that the policy takes it from."""
    page = browser.get("/login").text
    assert "<style" not in page and "style=" not in page and "<script" not in page
    # What begins with # is on the page itself.
    needed = set(re.findall(r'(?:href|src)="([^"#]+)"', page))
    types = {browser.get(path).headers["Content-Type"].partition(";")[0] for path in needed}
    assert types == {"image/svg+xml", "text/css"}


def test_an_open_app_asks_nobody(tmp_path: Path) -> None:
    with client_of(app_without_services(tmp_path)) as browser:
        assert browser.get(READ).status_code == 200
        assert browser.get("/login?next=/masters").headers["Location"] == "/masters"
        done = browser.post("/login", data={"token": "x"}, headers=origin(browser))
        assert (done.status_code, done.headers["Location"]) == (303, "/")
