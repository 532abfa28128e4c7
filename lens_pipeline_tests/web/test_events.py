"""The stream of what changes, as browsers read it."""

from collections.abc import Callable

import httpx

from lens_pipeline_tests.pipeline.site import Site
from lens_pipeline_tests.web.stream import EventSource


def test_a_photo_from_processing_to_ready(
    site: Site, web: httpx.Client, photo: Callable[[str], str]
) -> None:
    with EventSource(web) as stream:
        site.add("p1", photo("p1"))
        site.once()
        ready = stream.await_state("p1", "ready").data
        states = stream.states("p1")
    assert states in (["processing", "ready"], ["ready"])
    shown = web.get("/api/generations/p1").json()
    assert ready | {"kind": "photo", "asset": "preview"} == ready
    assert (ready["user_id"], ready["project_id"]) == ("u1", None)
    assert (ready["path"], ready["error"], ready["at"]) == (
        shown["path"],
        None,
        shown["ready_at"].replace("Z", "+00:00"),
    )
