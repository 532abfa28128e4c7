"""A real HTTP server that plays the generation provider."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lens_pipeline import settings
from lens_pipeline.providers.client import Limits
from lens_pipeline.providers.kie import Kie
from lens_pipeline_tests.support.servers import Answer, HostileServer

PATH = "/api/v1/jobs/recordInfo"
DOWNLOAD_PATH = "/api/v1/common/download-url"
VEO_PATH = "/api/v1/veo/record-info"
API_KEY = "kie-api-key-of-tests"
WEBHOOK_KEY = "kie-webhook-key-of-tests"


class ProviderServer(HostileServer):
    """Knows tasks; the rest as its base says. `asked` are the tasks asked for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        # Other links by those that have ended.
        self.links: dict[str, str] = {}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._veo: dict[str, dict[str, Any]] = {}

    @property
    def settings(self) -> dict[str, str]:
        """What points the app here."""
        return {
            "LENS_KIE_API": self.url(""),
            "LENS_KIE_API_KEY": API_KEY,
            "LENS_KIE_WEBHOOK_KEY": WEBHOOK_KEY,
        }

    def say(self, task_id: str, state: str, *urls: str, **more: Any) -> None:
        """Let a task be in this state, with these results."""
        result = json.dumps({"resultUrls": list(urls)}) if urls else ""
        data = {"taskId": task_id, "state": state, "resultJson": result, "failMsg": "", **more}
        self._tasks[task_id] = {"code": 200, "msg": "success", "data": data}

    def answer_as(self, task_id: str, body: Any) -> None:
        """Answer with exactly this, for a task."""
        self._tasks[task_id] = body

    def say_of_veo(self, task_id: str, flag: int, *urls: str, **more: Any) -> None:
        """Let a task of Veo be in this state."""
        response = {"taskId": task_id, "resultUrls": list(urls), "resolution": "1080p"}
        data = {"taskId": task_id, "successFlag": flag, "response": response, **more}
        self._veo[task_id] = {"code": 200, "msg": "success", "data": data}

    def answer_for(self, target: str, headers: dict[str, str]) -> Answer | None:
        if urlsplit(target).path == DOWNLOAD_PATH:
            link = self.links.get(json.loads(self.posted[-1])["url"])
            return _json({"code": 200 if link else 422, "msg": "", "data": link})
        (task_id,) = parse_qs(urlsplit(target).query)["taskId"]
        is_veo = urlsplit(target).path == VEO_PATH
        if not is_veo:
            self.asked.append(task_id)
        first = super().answer_for(target, headers)
        if first is None or first.status != 404:
            return first
        if headers.get("Authorization") != f"Bearer {API_KEY}":
            return _json({"code": 401, "msg": "You do not have access permissions"})
        unknown = {"code": 422, "msg": "recordInfo is null", "data": None}
        return _json((self._veo if is_veo else self._tasks).get(task_id, unknown))


def kie(url: str, key: str = API_KEY, **limits: Any) -> Kie:
    """A client of the server at `url`."""
    loaded, _ = settings.load({"LENS_KIE_API": url, "LENS_KIE_API_KEY": key}, dotenv=None)
    return Kie(loaded, Limits(**limits))


def _json(body: Any) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(200, raw, {"Content-Type": "application/json"})
