"""Who gets in with which token, and who does not."""

import base64
import datetime as dt
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline.settings import SettingsError, load
from lens_pipeline.web.auth.access import Limits
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.auth.keys import serializer, signing_key
from lens_pipeline.web.auth.tokens import Pass, Tokens
from lens_pipeline_tests.support.site import lens
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

ANN = Caller(user_id="ann")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    limits = Limits(wrong_tokens_a_minute=10_000)
    return app_without_services(tmp_path_factory.mktemp("guarded"), limits, LENS_API_TOKEN=TOKEN)


@pytest.fixture(scope="module")
def visitor(guarded: FastAPI) -> Iterator[httpx.Client]:
    with client_of(guarded) as client:
        yield client


def test_without_a_token_the_answer_says_how(visitor: httpx.Client) -> None:
    answer = visitor.get(READ)
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lens"'


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_opens_everything(visitor: httpx.Client, scheme: str) -> None:
    assert visitor.get(READ, headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


BASIC = f"Basic {base64.b64encode(f':{TOKEN}'.encode()).decode()}"
WRONG = {
    "another": "Bearer wrong-horse-battery-staple",
    "a part": f"Bearer {TOKEN[:-1]}",
    "more": f"Bearer {TOKEN}x",
    "none": "Bearer",
    "bytes": b"Bearer \xff\xfe\x80",
    "an unsigned scope": "Bearer lens_" + base64.urlsafe_b64encode(b'{"user":"ann"}').decode(),
    "an empty scope": "Bearer lens_",
    "dots": "Bearer lens_....",
}


@pytest.mark.parametrize("header", WRONG.values(), ids=WRONG.keys())
def test_any_other_token_opens_nothing(visitor: httpx.Client, header: str | bytes) -> None:
    answer = visitor.get(READ, headers={b"Authorization": header})  # pyright: ignore[reportArgumentType]
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert TOKEN not in answer.text


@pytest.mark.parametrize("header", [BASIC, TOKEN, f"Token {TOKEN}", ""])
def test_other_proofs_are_none(visitor: httpx.Client, header: str) -> None:
    answer = visitor.get(READ, headers={"Authorization": header})
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


def test_what_is_open_is_open_with_any_proof(visitor: httpx.Client) -> None:
    """A health check through a proxy that asks for a password, and sends it on."""
    for header in (BASIC, "Bearer wrong"):
        answer = visitor.get("/api/health/live", headers={"Authorization": header})
        assert answer.status_code == 200


def test_a_token_in_the_address_opens_nothing(visitor: httpx.Client) -> None:
    """Tokens in the logs of every proxy."""
    for name in ("token", "access_token", "api_token"):
        assert visitor.get(READ, params={name: TOKEN}).status_code == 401


def test_a_scoped_token_is_for_the_api_too(guarded: FastAPI, visitor: httpx.Client) -> None:
    token = token_of(guarded, ANN)
    assert token.startswith("lens_")
    assert visitor.get(READ, headers=bearer(token)).status_code == 200


def test_metrics_are_for_the_token_itself(guarded: FastAPI, visitor: httpx.Client) -> None:
    """Everybody's figures shown to one user."""
    assert visitor.get("/metrics").status_code == 401
    mine = visitor.get("/metrics", headers=bearer(token_of(guarded, ANN)))
    assert (mine.status_code, mine.json()["error"]) == (403, "forbidden")
    assert visitor.get("/metrics", headers=BEARER).status_code in (200, 404)


def _tokens(secret: str = TOKEN) -> Tokens:
    return Tokens(secret, signing_key(load({"LENS_API_TOKEN": secret}, dotenv=None)[0]))


def test_every_altered_character_is_noticed() -> None:
    tokens = _tokens()
    token = tokens.scoped(ANN, None)
    assert tokens.read(token) == Pass(ANN)
    # The last character has bits that mean nothing.
    for place in range(len(token) - 1):
        other = "A" if token[place] != "A" else "B"
        assert tokens.read(token[:place] + other + token[place + 1 :]) is None


def test_a_scope_cannot_be_widened() -> None:
    """Somebody else's scope under a signature that was made for another."""
    tokens = _tokens()
    _, _, signature = tokens.scoped(ANN, None).rpartition(".")
    for values in ({"user": "bob"}, {"user": None, "project": None, "until": None}, {}):
        payload = base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")
        assert tokens.read(f"lens_{payload}.{signature}") is None


def test_no_scoped_token_sees_all() -> None:
    """A token that opens everything and that nobody can tell from one that does not."""
    with pytest.raises(ValueError, match="needs a user or a project"):
        _tokens().scoped(Caller(), None)


def test_a_token_ends_when_it_says() -> None:
    tokens = _tokens()
    now = dt.datetime.now(dt.UTC)
    assert tokens.read(tokens.scoped(ANN, now - dt.timedelta(seconds=1))) is None
    found = tokens.read(tokens.scoped(ANN, now + dt.timedelta(seconds=60)))
    assert found is not None and found.caller == ANN


def test_another_secret_ends_all_tokens() -> None:
    """The only way there is to revoke one."""
    token = _tokens().scoped(ANN, None)
    assert _tokens("another-horse-battery-staple").read(token) is None


def test_what_is_signed_for_one_purpose_is_void_for_another() -> None:
    """A cookie of a week as a token for ever, or the other way round."""
    tokens = _tokens()
    session, _ = tokens.session(Pass(ANN), 60)
    assert tokens.read(f"lens_{session}") is None
    assert tokens.read(session) is None
    assert tokens.read_session(tokens.scoped(ANN, None).removeprefix("lens_")) is None
    key = signing_key(load({"LENS_API_TOKEN": TOKEN}, dotenv=None)[0])
    assert tokens.read_session(str(serializer(key, "form").dumps("x"))) is None


def test_a_session_does_not_outlive_its_token() -> None:
    tokens = _tokens()
    until = int(time.time()) + 30
    session, seconds = tokens.session(Pass(ANN, until), 3600)
    assert seconds <= 30
    assert tokens.read_session(session) == Pass(ANN, until)


def test_guessing_is_slowed(tmp_path: Path) -> None:
    """Each of a million tries answered, and logged."""
    app = app_without_services(tmp_path, Limits(wrong_tokens_a_minute=5), LENS_API_TOKEN=TOKEN)
    with client_of(app) as visitor:
        answers = [visitor.get(READ, headers=bearer(f"guess-{n}")) for n in range(8)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 120
        assert visitor.get(READ, headers=BEARER).status_code == 200


def test_the_command(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LENS_API_TOKEN", TOKEN)
    tokens = _tokens()
    made = lens("token", "--user", "ann", "--days", "2")
    assert made.code == 0, made.err
    found = tokens.read(made.out.strip())
    assert found is not None and found.caller == ANN
    assert found.until == pytest.approx(time.time() + 2 * 86400, abs=60)
    unending = tokens.read(lens("token", "--project", "pa").out.strip())
    assert unending == Pass(Caller(project_id="pa"))


@pytest.mark.parametrize(
    "arguments",
    [(), ("--user", "a", "--project", "b"), ("--user", " "), ("--user", "a", "--days", "0")],
)
def test_the_command_refuses(environment: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    environment.setenv("LENS_API_TOKEN", TOKEN)
    made = lens("token", *arguments)
    assert (made.code, made.out) == (2, "")


def test_the_command_needs_the_secret(environment: pytest.MonkeyPatch) -> None:
    """A token that nothing will ever ask for."""
    made = lens("token", "--user", "ann")
    assert (made.code, made.out) == (2, "")
    assert "LENS_API_TOKEN" in made.err


def test_the_key_of_an_open_app_is_kept_for_its_owner(tmp_path: Path) -> None:
    """Links that end with every restart, or a key that others on the machine read."""
    settings = load({"LENS_HOME": str(tmp_path / "home")}, dotenv=None)[0]
    key = signing_key(settings)
    (file,) = (tmp_path / "home").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert signing_key(settings) == key
    file.write_bytes(key[:7])
    with pytest.raises(SettingsError, match="remove it"):
        signing_key(settings)


@pytest.mark.parametrize("variables", [{}, {"LENS_API_TOKEN": TOKEN}], ids=["open", "token"])
def test_a_home_that_was_there_is_closed_to_others(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """Keys and media that every user of the machine can list and read."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    signing_key(load({"LENS_HOME": str(home), **variables}, dotenv=None)[0])
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_a_stream_ends_with_its_token(guarded: FastAPI, visitor: httpx.Client) -> None:
    """Who has heard everything ever since."""
    tokens = access(guarded).tokens
    assert tokens is not None
    until = dt.datetime.fromtimestamp(int(time.time()) + 2, dt.UTC)
    headers = bearer(tokens.scoped(ANN, until))
    with visitor.stream("GET", "/api/events", headers=headers) as stream:
        assert stream.status_code == 200
        assert "retry:" in "".join(stream.iter_text())
    assert dt.datetime.now(dt.UTC) >= until
    assert visitor.get("/api/events", headers=headers).status_code == 401
