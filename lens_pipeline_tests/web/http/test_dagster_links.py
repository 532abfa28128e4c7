"""What metadata in the Dagster UI link to."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from lens_pipeline.storage.connect import open_store
from lens_pipeline.storage.object_store import ObjectStore
from lens_pipeline.web.http.dagster_links import DagsterLinks

KEY = "u1/previews/p1_preview.webp"


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    large = BytesIO()
    Image.new("RGB", (768, 500), "red").save(large, "WEBP")
    for key, body in {KEY: large.getvalue(), "u1/uploads/own.webp": large.getvalue()}.items():
        (tmp_path / key).parent.mkdir(parents=True)
        (tmp_path / key).write_bytes(body)
    store = open_store(tmp_path.as_uri(), None)
    return TestClient(_links(store), base_url="http://localhost:3000", follow_redirects=False)


def _links(store: ObjectStore, public_url: str | None = None) -> DagsterLinks:
    return DagsterLinks(PlainTextResponse("the UI"), store, public_url, 8000)


def test_a_picture_is_small_and_of_the_ui_s_own_address(client: TestClient) -> None:
    answer = client.get(f"/lens/pictures/{KEY}")
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(BytesIO(answer.content)) as picture:
        assert picture.size == (256, 167)


@pytest.mark.parametrize(
    "key", ["u1/uploads/own.webp", "u1/previews/none_preview.webp", "%2e%2e/secret"]
)
def test_nothing_else_of_the_store_is_shown(client: TestClient, key: str) -> None:
    """What others have stored, decoded outside the sandbox."""
    assert client.get(f"/lens/pictures/{key}").status_code == 404


def test_other_links_lead_to_the_pages(client: TestClient, tmp_path: Path) -> None:
    answer = client.get("/lens/library?view=p1")
    assert answer.headers["location"] == "http://localhost:8000/library?view=p1"
    public = TestClient(
        _links(open_store(tmp_path.as_uri(), None), "https://media.example.org/app/"),
        follow_redirects=False,
    )
    there = public.get("/lens//elsewhere.example.org").headers["location"]
    assert there == "https://media.example.org/app//elsewhere.example.org"
    assert client.get("/runs").text == "the UI"
