"""A real HTTP server that answers paths with JSON, as a provider's API does."""

import json
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from lens_pipeline_tests.support.servers import Answer, HostileServer


class JsonServer(HostileServer):
    """`answers`: status and body by path, for callers with `authorization`; others get a 401."""

    def __init__(self, authorization: str | None = None) -> None:
        super().__init__()
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: Counter[str] = Counter()
        self._authorization = authorization

    def answer_for(self, target: str, headers: dict[str, str]) -> Answer | None:
        path = urlsplit(target).path
        self.asked[path] += 1
        first = super().answer_for(target, headers)
        if first is None or first.status != 404:
            return first
        if (
            self._authorization
            and headers.get("Authorization", self._authorization) != self._authorization
        ):
            return _json(401, {"detail": "unauthorized"})
        return _json(*self.answers.get(path, (404, {"detail": "not found"})))


def _json(status: int, body: Any) -> Answer:
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})
