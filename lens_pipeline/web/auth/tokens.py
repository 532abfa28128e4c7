"""Tokens: LENS_API_TOKEN, which covers everything, and signed ones for one user or project."""

import datetime as dt
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.auth.keys import serializer

# Secret scanners recognise tokens by it.
_MARK = "lens_"
_TOKEN = "token"  # noqa: S105
_SESSION = "session"


@dataclass(frozen=True, slots=True)
class Pass:
    """A caller, known until a time in seconds since 1970; None: always."""

    caller: Caller
    until: int | None = None


class Tokens:
    """Nothing is stored: a change of LENS_API_TOKEN ends all tokens and sessions."""

    def __init__(self, full: str, key: bytes) -> None:
        self._full = full.encode()
        self._scoped = serializer(key, _TOKEN)
        self._sessions = serializer(key, _SESSION)

    def scoped(self, caller: Caller, until: dt.datetime | None) -> str:
        """Raises ValueError: the caller sees all."""
        if caller.sees_all:
            raise ValueError("a scoped token needs a user or a project")
        ends = int(until.timestamp()) if until else None
        return _MARK + _text(self._scoped.dumps(_packed(Pass(caller, ends))))

    def read(self, token: str) -> Pass | None:
        """None: not valid, or expired."""
        if hmac.compare_digest(token.encode(), self._full):
            return Pass(Caller())
        if not token.startswith(_MARK):
            return None
        found = _loaded(self._scoped, token.removeprefix(_MARK))
        return None if found is None or found.caller.sees_all else found

    def session(self, owner: Pass, seconds: int) -> tuple[str, int]:
        """The cookie's value, and the seconds until it ends."""
        now = int(time.time())
        until = now + seconds if owner.until is None else min(now + seconds, owner.until)
        return _text(self._sessions.dumps(_packed(Pass(owner.caller, until)))), until - now

    def read_session(self, cookie: str) -> Pass | None:
        """None: not valid, or expired."""
        return _loaded(self._sessions, cookie)


def _packed(owner: Pass) -> dict[str, Any]:
    caller = owner.caller
    return {"user": caller.user_id, "project": caller.project_id, "until": owner.until}


def _loaded(signed: URLSafeSerializer, text: str) -> Pass | None:
    try:
        values: Mapping[str, Any] = signed.loads(text)
    except BadData:
        return None
    until = values["until"]
    if until is not None and until <= time.time():
        return None
    return Pass(Caller(values["user"], values["project"]), until)


def _text(signed: str | bytes) -> str:
    return signed.decode() if isinstance(signed, bytes) else signed
