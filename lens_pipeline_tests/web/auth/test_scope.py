"""Every route there is, asked by nobody, by strangers and by the owner.

A new route fails here until it is put into one of the tables.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from starlette.routing import BaseRoute, Mount

from lens_pipeline.web.auth.caller import Caller, caller, media_caller
from lens_pipeline.web.auth.signed_links import is_media
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.web.auth.gate_app import BEARER, bearer, client_of, token_of

# Before the app is made.
pytestmark = pytest.mark.usefixtures("provider")

Route = tuple[str, str]


class _Form(dict[str, str]):
    """A body as an HTML form sends it."""


# Whoever asks.
OPEN = {
    *(
        (method, prefix + path)
        for method in ("GET", "HEAD")
        for prefix in ("", "/api")
        for path in ("/health", "/health/live")
    ),
    ("GET", "/login"),
    ("HEAD", "/login"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("POST", "/api/kie/webhook"),
    ("POST", "/api/webhooks/{provider}"),
    ("MOUNT", "/static"),
}
# Nothing that belongs to anybody: every caller alike.
ANY = {("GET", "/api/openapi.json"), ("HEAD", "/api/openapi.json")}
# Pages: the same, and whoever is not known is sent to the login.
PAGES = {(method, path) for method in ("GET", "HEAD") for path in ("/", "/library", "/masters")}
# What concerns all users together.
ALL_SEEING = {("GET", "/metrics")}
# Lists: with the parameters that ask for somebody else's.
LISTS: dict[Route, list[str]] = {
    ("GET", "/api/generations"): ["user_id=ann"],
    ("GET", "/api/events"): ["user_id=ann", "project_id=pa"],
    ("GET", "/api/projects"): [],
    ("POST", "/api/generations"): ["user_id=ann&name=secret.jpg"],
}
# One thing, by the name of its owner in the path: with a query and a body that are valid.
_SHOT = {"asset_url": "https://secret.example/new.mp4"}
_CUT = {"master_id": "m-pa", "start_seconds": 0, "end_seconds": 1, "width": 320, "height": 240}
_OF_ANN: dict[Route, Any] = {
    ("GET", "/api/generations/{generation_id}"): None,
    ("GET", "/api/generations/{generation_id}/preview"): None,
    ("HEAD", "/api/generations/{generation_id}/preview"): None,
    ("GET", "/api/generations/{generation_id}/poster"): None,
    ("HEAD", "/api/generations/{generation_id}/poster"): None,
    ("GET", "/api/generations/{generation_id}/clip"): None,
    ("HEAD", "/api/generations/{generation_id}/clip"): None,
    ("GET", "/api/generations/{generation_id}/file"): None,
    ("HEAD", "/api/generations/{generation_id}/file"): None,
    ("GET", "/api/generations/archive"): "ids=g-ann",
    ("POST", "/api/generations/archive"): _Form(ids="g-ann"),
    ("POST", "/api/generations/{generation_id}/retry"): None,
    ("POST", "/api/generations/retry"): {"ids": ["g-ann"]},
    ("DELETE", "/api/generations/{generation_id}"): None,
    ("POST", "/api/kie/sync"): "taskId=t-ann",
    ("POST", "/api/links"): {"paths": ["/api/generations/g-ann/file"]},
}
_PROJECT = "/api/projects/{project_id}"
_OF_PA: dict[Route, Any] = {
    ("GET", f"{_PROJECT}/archive"): None,
    ("GET", f"{_PROJECT}/assets"): None,
    ("POST", f"{_PROJECT}/assets"): _SHOT,
    ("GET", f"{_PROJECT}/assets/{{asset_id}}/poster"): None,
    ("HEAD", f"{_PROJECT}/assets/{{asset_id}}/poster"): None,
    ("GET", f"{_PROJECT}/master-videos"): None,
    ("POST", f"{_PROJECT}/master-videos"): {"name": "secret film", "shots": ["a-pa"]},
    ("GET", f"{_PROJECT}/scaled-videos"): None,
    ("POST", f"{_PROJECT}/scaled-videos"): _CUT,
    ("POST", f"{_PROJECT}/master-videos/{{master_id}}/scale"): {"formats": ["9:16"]},
    ("GET", f"{_PROJECT}/scale-jobs/{{job_id}}"): None,
    ("POST", f"{_PROJECT}/scale-jobs/{{job_id}}/retry"): None,
    ("DELETE", f"{_PROJECT}/scale-jobs/{{job_id}}"): None,
    **{
        (method, f"{_PROJECT}/{one}{rest}"): None
        for one in ("scaled-videos/{scaled_id}", "master-videos/{master_id}")
        for method, rest in (
            ("GET", ""),
            ("POST", "/retry"),
            ("GET", "/video"),
            ("HEAD", "/video"),
            ("GET", "/download"),
            ("HEAD", "/download"),
            ("GET", "/poster"),
            ("HEAD", "/poster"),
            ("DELETE", ""),
        )
    },
    ("POST", f"{_PROJECT}/master-videos/{{master_id}}/renditions"): {"formats": ["9:16"]},
    ("PATCH", f"{_PROJECT}/master-videos/{{master_id}}"): {"name": "secret film"},
}
ANN, BOB = Caller(user_id="ann"), Caller(user_id="bob")
PA, PB = Caller(project_id="pa"), Caller(project_id="pb")
OWNED = [(_OF_ANN, ANN, (BOB, PA, PB)), (_OF_PA, PA, (PB, ANN, BOB))]
_NAMES = {
    "generation_id": "g-ann",
    "project_id": "pa",
    "asset_id": "a-pa",
    "master_id": "m-pa",
    "scaled_id": "s-pa",
    "job_id": "j-pa",
    "provider": "kie",
}
_REFUSALS = ("forbidden", "not_found", "unknown_task")
_SECRETS = ("secret", "g-ann", "a-pa", "m-pa", "s-pa")


def _endpoints(routes: Sequence[BaseRoute]) -> Iterator[tuple[Route, BaseRoute]]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _endpoints(included.routes)
        elif isinstance(route, Mount):
            yield ("MOUNT", route.path), route
        else:
            for method in sorted(getattr(route, "methods", None) or {"?"}):
                yield (method, getattr(route, "path", repr(route))), route


def _calls(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for each in dependant.dependencies:
        yield from _calls(each)


@pytest.fixture
def provider(environment: pytest.MonkeyPatch) -> None:
    """One that is known and never answers."""
    environment.setenv("LENS_KIE_API", "http://127.0.0.1:9")
    environment.setenv("LENS_KIE_API_KEY", "key")


@pytest.fixture
def routes(guarded_app: FastAPI) -> dict[Route, BaseRoute]:
    return dict(_endpoints(guarded_app.routes))


@pytest.fixture
def visitor(site: Site, guarded_app: FastAPI) -> Iterator[httpx.Client]:
    """Asks an app with a photo of ann's, and a master of the project pa."""
    site.add("g-ann", "https://secret.example/1.jpg", user_id="ann", task_id="t-ann")
    site.sql(
        "INSERT INTO project_assets (asset_id, project_id, asset_url)"
        " VALUES ('a-pa', 'pa', 'https://secret.example/2.mp4')"
    )
    site.sql(
        "INSERT INTO master_videos (master_id, project_id, name, shots_config)"
        " VALUES ('m-pa', 'pa', 'secret film', '[\"a-pa\"]')"
    )
    site.sql(
        "INSERT INTO scaled_videos (scaled_id, master_id, width, height, order_id)"
        " VALUES ('s-pa', 'm-pa', 320, 240, NULL), ('s-2', 'm-pa', 320, 240, 'j-pa')"
    )
    with client_of(guarded_app) as client:
        yield client


def test_every_route_has_its_place(routes: dict[Route, BaseRoute]) -> None:
    """A route that nobody thought about."""
    known = OPEN | ANY | PAGES | ALL_SEEING | LISTS.keys() | _OF_ANN.keys() | _OF_PA.keys()
    assert routes.keys() - known == set()


def test_what_is_not_open_asks_who_is_there(
    routes: dict[Route, BaseRoute], visitor: httpx.Client
) -> None:
    """The same, by the answers."""
    for method, path in routes.keys() - OPEN:
        answer = visitor.request(method, path.format(**_NAMES))
        if (method, path) in PAGES:
            assert answer.status_code == 303 and answer.headers["Location"].startswith("/login?")
        else:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"]


def test_handlers_of_what_is_owned_know_the_caller(routes: dict[Route, BaseRoute]) -> None:
    """A handler that cannot tell whose data it gives away."""
    for (method, path), route in routes.items():
        dependant = getattr(route, "dependant", None)
        calls = set(_calls(dependant)) if dependant else set[object]()
        is_linkable = is_media(path.format(**_NAMES))
        assert (media_caller in calls) == is_linkable, (method, path)
        if (method, path) in LISTS.keys() | _OF_ANN.keys() | _OF_PA.keys() and not is_linkable:
            assert caller in calls, (method, path)


def _ask(visitor: httpx.Client, route: Route, sent: Any, headers: dict[str, str]) -> httpx.Response:
    method, path = route
    query = sent if isinstance(sent, str) else ""
    url = f"{path.format(**_NAMES)}?{query}"
    if isinstance(sent, _Form):
        return visitor.request(method, url, data=sent, headers=headers)
    body = None if isinstance(sent, str) else sent
    return visitor.request(method, url, json=body, headers=headers)


def _told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, _body(answer).get("error")


def _body(answer: httpx.Response) -> dict[str, Any]:
    is_json = answer.headers.get("Content-Type", "").startswith("application/json")
    return answer.json() if is_json and answer.content else {}


@pytest.mark.slow
def test_what_is_somebodys_does_not_exist_for_others(
    routes: dict[Route, BaseRoute], guarded_app: FastAPI, visitor: httpx.Client
) -> None:
    """Everything of everybody, by counting through ids."""
    for table, owner, strangers in OWNED:
        # Last what leaves nothing to ask for.
        for route, sent in sorted(table.items(), key=lambda item: item[0][0] == "DELETE"):
            if route not in routes:
                continue
            refusals = set[str | None]()
            for stranger in strangers:
                answer = _ask(visitor, route, sent, bearer(token_of(guarded_app, stranger)))
                told = _told(answer)
                assert told[0] in (403, 404), (route, stranger, answer.text)
                assert told[1] in _REFUSALS or route[0] == "HEAD"
                assert "secret" not in answer.text + str(answer.headers)
                refusals.add(_body(answer).get("message"))
            own = _ask(visitor, route, sent, bearer(token_of(guarded_app, owner)))
            assert own.status_code != 401
            # Whatever it is, a file that is not ready for example, it is told to the owner alone.
            if route[0] != "HEAD":
                assert _body(own).get("message") not in refusals, (route, own.text)


@pytest.mark.slow
def test_lists_hold_nothing_of_others(
    routes: dict[Route, BaseRoute], guarded_app: FastAPI, visitor: httpx.Client
) -> None:
    """The same, all at once."""
    for route, foreign in LISTS.items():
        if route not in routes:
            continue
        for stranger in (BOB, PB):
            headers = bearer(token_of(guarded_app, stranger))
            for query in foreign:
                answer = _ask(visitor, route, query, headers)
                assert _told(answer) == (403, "forbidden"), (route, query, stranger)
            if route[1] == "/api/events":
                continue  # without end; what it tells is `test_events`'
            answer = _ask(visitor, route, None, headers)
            assert answer.status_code in (200, 403)
            assert not any(secret in answer.text for secret in _SECRETS), (route, answer.text)


@pytest.mark.slow
def test_what_is_for_every_caller(
    routes: dict[Route, BaseRoute], guarded_app: FastAPI, visitor: httpx.Client
) -> None:
    for route in (ANY | PAGES) & routes.keys():
        answer = _ask(visitor, route, None, bearer(token_of(guarded_app, BOB)))
        assert answer.status_code in (200, 302), route
    for route in ALL_SEEING & routes.keys():
        scoped = _ask(visitor, route, None, bearer(token_of(guarded_app, BOB)))
        assert _told(scoped) == (403, "forbidden")
        assert _ask(visitor, route, None, BEARER).status_code == 200


@pytest.fixture
def bucket(environment: pytest.MonkeyPatch) -> None:
    """The store, for apps that are made later."""
    environment.setenv("LENS_STORE_URL", "s3://media")
    environment.setenv("LENS_S3_ENDPOINT", "https://x.storage.supabase.co/storage/v1/s3")


@pytest.mark.slow
@pytest.mark.usefixtures("site", "bucket")
def test_a_projects_token_names_no_object_of_ours(request: pytest.FixtureRequest) -> None:
    """A project that makes a film of any user's private file, by its web address or its key."""
    app: FastAPI = request.getfixturevalue("guarded_app")
    private = "https://x.supabase.co/storage/v1/object/public/media/ann/secret.mp4"
    others = private.replace("media", "other")
    headers = bearer(token_of(app, PA))
    with client_of(app) as client:
        for asset_url, status in ((private, 403), ("ann/secret.mp4", 403), (others, 201)):
            sent = {"asset_url": asset_url}
            answer = client.post("/api/projects/pa/assets", json=sent, headers=headers)
            assert answer.status_code == status, (asset_url, answer.text)
