"""The provider's client against a real server: what it understands, and what it refuses."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lens_pipeline.providers.kie import read_task
from lens_pipeline.providers.models import (
    ProviderInvalid,
    ProviderUnavailable,
    Task,
    TaskState,
    UnknownTask,
)
from lens_pipeline_tests.providers.json_server import JsonServer
from lens_pipeline_tests.providers.provider_server import API_KEY, PATH, ProviderServer, kie
from lens_pipeline_tests.support.servers import Answer
from lens_pipeline_tests.support.site import eventually

RESULT = "https://files.example.org/r/1.jpg"
OTHER = "http://files.example.org/r/2.jpg?x=%20y"


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    with ProviderServer() as started:
        yield started


def ask(server: ProviderServer, *tasks: str, key: str = API_KEY, **limits: Any) -> Task:
    """What a client says of the last of the tasks, all of them asked for at once."""

    async def asked() -> Task:
        client = kie(server.url("/"), key, **limits)
        return (await asyncio.gather(*(client.task(task) for task in tasks)))[-1]

    return asyncio.run(asked())


def test_each_state(server: ProviderServer) -> None:
    server.say("s", "success", RESULT, OTHER)
    assert ask(server, "s") == Task("s", TaskState.SUCCESS, (RESULT, OTHER))
    server.say("f", "fail", failMsg=" not\r\nallowed ")
    assert ask(server, "f") == Task("f", TaskState.FAIL, failure="not allowed")
    server.answer_as("f", {"code": 501, "data": {"taskId": "f", "state": "fail"}})
    assert ask(server, "f") == Task("f", TaskState.FAIL)
    for state in ("waiting", "queuing", "generating"):
        server.say("w", state)
        assert ask(server, "w") == Task("w", TaskState(state))


@pytest.mark.parametrize(
    "result",
    [
        {"resultUrls": [RESULT, OTHER]},
        {"outputs": [RESULT, OTHER]},
        {"outputs": [{"url": RESULT, "type": "image"}, {"url": OTHER}]},
        {"results": json.dumps([RESULT, OTHER])},
        [RESULT, OTHER],
        [{"url": RESULT}, {"url": OTHER}],
        {"resultUrls": json.dumps([{"url": RESULT}, {"url": OTHER}])},
    ],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_each_form_of_a_result(result: Any, as_text: bool) -> None:
    said = _said(resultJson=json.dumps(result) if as_text else result)
    assert read_task("t", said).urls == (RESULT, OTHER)


def test_a_task_of_veo(server: ProviderServer) -> None:
    server.say_of_veo("v", 0)
    assert ask(server, "v") == Task("v", TaskState.GENERATING)
    server.say_of_veo("v", 1, RESULT, creditsConsumed=60)
    assert ask(server, "v") == Task("v", TaskState.SUCCESS, (RESULT,), credits=60)
    for flag in (2, 3):
        server.say_of_veo("v", flag, errorMessage=" flagged\n")
        assert ask(server, "v") == Task("v", TaskState.FAIL, failure="flagged")
    server.say_of_veo("v", 4)
    with pytest.raises(ProviderInvalid, match="successFlag"):
        ask(server, "v")


def test_another_link_to_a_result() -> None:
    path, old = "/api/v1/common/download-url", "https://tempfile.example.org/1.png"
    with JsonServer(f"Bearer {API_KEY}") as server:
        server.answers[path] = (200, {"code": 200, "msg": "success", "data": RESULT})
        assert asyncio.run(kie(server.url("")).fresh_url(old)) == RESULT
        assert json.loads(server.posted[0]) == {"url": old}
        server.answers[path] = (200, {"code": 422, "msg": "Invalid URL", "data": None})
        assert asyncio.run(kie(server.url("")).fresh_url("https://other.example.org/1")) is None
        server.answers[path] = (200, {"code": 401, "msg": "You do not have access permissions"})
        with pytest.raises(ProviderInvalid, match="LENS_KIE_API_KEY"):
            asyncio.run(kie(server.url("")).fresh_url(old))


def test_what_it_does_not_know(server: ProviderServer) -> None:
    with pytest.raises(UnknownTask):
        ask(server, "a&taskId=b")
    assert server.asked == ["a&taskId=b"]
    server.answer_as("t", {"code": 404, "msg": "no such task"})
    with pytest.raises(UnknownTask):
        ask(server, "t")


def _said(**data: Any) -> dict[str, Any]:
    result = json.dumps({"resultUrls": [RESULT]})
    return {"code": 200, "data": {"taskId": "t", "state": "success", "resultJson": result} | data}


def _urls(*urls: Any) -> dict[str, Any]:
    return _said(resultJson=json.dumps({"resultUrls": urls}))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": "200", "data": {}},
        {"code": [200], "data": {}},
        {"code": True, "data": {}},
        {"code": 200, "data": None},
        {"code": 200, "data": []},
        {"code": 402, "msg": "pay"},
        {"code": 1000, "data": {}},
        _said(taskId="other"),
        _said(taskId=None),
        _said(state="done"),
        _said(state=None),
        _said(state=["success"]),
        _said(resultJson=None),
        _said(resultJson=""),
        _said(resultJson="[]"),
        _said(resultJson="{"),
        _said(resultJson="\ud800"),
        _said(resultJson="[" * 100_000),
        _urls(),
        _urls(7),
        _urls(None),
        _urls("file:///etc/passwd"),
        _urls("u1/uploads/of-another.jpg"),
        _urls("https://"),
        _urls("https://a.example/\n"),
        _urls("https://[a.example/"),
        _urls("https://a.example:99999/x"),
        _urls(RESULT, "javascript:x"),
        _urls("https://a.example/" + "x" * 5000),
        _urls(*[RESULT] * 101),
        {"code": 501, "data": {"taskId": "t", "state": "success"}},
        {"code": 501, "data": None},
    ],
    ids=lambda body: str(body)[-50:],
)
def test_nonsense(body: Any) -> None:
    with pytest.raises(ProviderInvalid):
        read_task("t", body)


def test_what_is_no_json_object(server: ProviderServer) -> None:
    large = b'{"code": 200, "data": "' + b"x" * 2**20 + b'"}'
    for body in (b"<html>", b"", b"[]", b"null", b"[" * 100_000, large):
        server.answer_as("t", body)
        with pytest.raises(ProviderInvalid):
            ask(server, "t")
    # Asking again would not help.
    assert len(server.asked) == 6


def test_a_key_that_is_refused_is_not_repeated(server: ProviderServer) -> None:
    with pytest.raises(ProviderInvalid, match="LENS_KIE_API_KEY") as raised:
        ask(server, "t", key="a-wrong-secret")
    assert "a-wrong-secret" not in str(raised.value)


def test_a_redirect_is_not_followed(server: ProviderServer) -> None:
    """Our key, taken to wherever somebody points."""
    elsewhere = server.url("/elsewhere?taskId=t")
    server.answer_first(PATH, Answer(302, headers={"Location": elsewhere}))
    with pytest.raises(ProviderInvalid, match="redirects"):
        ask(server, "t")
    assert server.requests["/elsewhere"] == 0


def test_an_error_that_says_it_is_none(server: ProviderServer) -> None:
    server.answer_first(PATH, Answer(400, json.dumps(_said()).encode()))
    with pytest.raises(ProviderInvalid, match="400"):
        ask(server, "t")


def test_an_answer_that_grows_when_unpacked_is_not_unpacked(server: ProviderServer) -> None:
    bomb = server.answer_for("/gzip-bomb?taskId=t", {})
    assert bomb is not None
    server.answer_first(PATH, bomb)
    with pytest.raises(ProviderInvalid, match="no sense"):
        ask(server, "t")


@pytest.mark.parametrize(
    "first",
    [
        Answer(502),
        Answer(500, b"<html>"),
        Answer(200, b'{"code": 500}'),
        Answer(200, b'{"code": 455}'),
    ],
)
def test_down_for_a_moment(server: ProviderServer, first: Answer) -> None:
    server.say("t", "success", RESULT)
    server.answer_first(PATH, first)
    assert ask(server, "t").state is TaskState.SUCCESS
    assert server.asked == ["t", "t"]


@pytest.mark.parametrize("like", ["/resets", "/garbage", "/wrong-length", "/endless-headers"])
def test_down(server: ProviderServer, like: str) -> None:
    server.misbehave(PATH, like)
    with pytest.raises(ProviderUnavailable) as raised:
        ask(server, "t", attempts=1)
    assert not raised.value.is_late


def test_not_there_at_all(server: ProviderServer) -> None:
    url = server.url("")
    server.__exit__(None, None, None)
    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        asyncio.run(kie(url, total_seconds=0.5).task("t"))


@pytest.mark.parametrize("like", ["/hangs", "/slow-body", "/slow-headers", "/endless-interim"])
def test_slow(server: ProviderServer, like: str) -> None:
    """A byte now and then, which no time-out of a single read ends."""
    server.misbehave(PATH, like)
    started = time.monotonic()
    with pytest.raises(ProviderUnavailable) as raised:
        ask(server, "t", total_seconds=0.3)
    assert raised.value.is_late
    assert time.monotonic() - started < 4


def test_the_rate_limit_is_kept_by_everybody(
    server: ProviderServer, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        server.say(f"t{number}", "success", RESULT)
    server.answer_first(PATH, Answer(429, headers={"Retry-After": "1"}))

    async def asked() -> None:
        client = kie(server.url(""))
        first = asyncio.create_task(client.task("t0"))
        await asyncio.to_thread(eventually, lambda: "limits us for 1 s" in caplog.text, 5)
        await asyncio.gather(first, *(client.task(f"t{number}") for number in range(1, 5)))

    started = time.monotonic()
    asyncio.run(asked())
    assert time.monotonic() - started >= 1
    # One question met the limit; nobody asked again before its end.
    assert sorted(server.asked) == ["t0", "t0", "t1", "t2", "t3", "t4"]


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Answer(429, headers={"Retry-After": "120"}), 120),
        (Answer(429, headers={"Retry-After": "99999999"}), 3600),
        (Answer(429, headers={"Retry-After": "soon"}), 10),
        (Answer(429, headers={"Retry-After": f"Wed, 21 Oct {'9' * 20} 07:28:00 GMT"}), 10),
        (Answer(200, b'{"code": 429, "msg": "slowly"}'), 10),
    ],
)
def test_a_long_rate_limit_is_handed_on(
    server: ProviderServer, answer: Answer, seconds: int
) -> None:
    server.answer_first(PATH, answer)

    async def asked() -> None:
        client = kie(server.url(""))
        for _ in range(3):
            with pytest.raises(ProviderUnavailable) as raised:
                await client.task("t")
            assert seconds - 5 <= (raised.value.retry_after_seconds or 0) <= seconds

    started = time.monotonic()
    asyncio.run(asked())
    assert time.monotonic() - started < 5
    assert len(server.asked) == 1
