"""The words of messages, and the links in them."""

import datetime as dt
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

from lens_pipeline.core.durations import spoken
from lens_pipeline.core.ports import reachable_host
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.status import describe
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.monitoring.alerts.state import Notice, Word
from lens_pipeline.settings import Settings

_NAMED = 5  # dead letters in one message
_LONGEST_REASON = 200
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Message:
    title: str
    body: str
    tone: Literal["failure", "warning", "success", "info"]  # of Apprise


def compose(
    notices: Sequence[Notice], settings: Settings, now: float, dead: Sequence[str] = ()
) -> Message:
    """One message of all notices and the lines `dead`, new problems first."""
    ordered = sorted(notices, key=lambda notice: list(Word).index(notice.word))
    words = {notice.word for notice in notices}
    tone = "failure" if Word.BEGAN in words else "success" if words == {Word.OVER} else "warning"
    first = ordered[0]
    over = "over: " if first.word is Word.OVER else ""
    others = f" and {len(ordered) - 1} more" if len(ordered) > 1 else ""
    title = f"{_site(settings)}: {over}{first.problem.text.partition(':')[0]}{others}"
    lines = [line for notice in ordered for line in _lines(notice, now)]
    return Message(title, "\n".join([*lines, *dead]), tone)


def trial(settings: Settings) -> Message:
    body = f"All is well.\n{page_link(settings, 'library')}"
    return Message(f"{_site(settings)}: test of the alerts", body, "info")


def dead_letter_lines(pipeline: Pipeline, letters: Sequence[DerivativeStatus]) -> list[str]:
    """The first of these letters. Raises SQLAlchemyError."""
    named = describe(pipeline, letters[:_NAMED])
    lines = ["", "Dead letters:"]
    for letter in named:
        reason = _UNPRINTABLE.sub(" ", letter.error or "")[:_LONGEST_REASON]
        path = f"assets/{letter.asset}?view=partitions&partition={quote(letter.id, safe='')}"
        lines.append(f"- {letter.asset} {letter.id}: {letter.error_class}: {reason}")
        lines.append(f"  {dagster_link(pipeline.settings, path)}")
    if len(letters) > len(named):
        lines.append(f"- and {len(letters) - len(named)} more")
    return lines


def dagster_link(settings: Settings, path: str) -> str:
    """A page of the Dagster UI, by default on this machine."""
    return _joined(settings.dagster_public_url, settings, settings.dagster_port, path)


def page_link(settings: Settings, path: str) -> str:
    """A page of the HTTP app, by default on this machine."""
    return _joined(settings.public_url, settings, settings.api_port, path)


def _joined(public: str | None, settings: Settings, port: int, path: str) -> str:
    host = reachable_host(settings.bind)
    base = public or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return f"{base.rstrip('/')}/{path}"


def _lines(notice: Notice, now: float) -> list[str]:
    since = dt.datetime.fromtimestamp(notice.since, dt.UTC)
    moment = f"since {since:%Y-%m-%d %H:%M} UTC, {spoken(max(now - notice.since, 0.0))}"
    lines = [f"{notice.word.upper()}: {notice.problem.text} ({moment})"]
    return [*lines, notice.problem.link] if notice.problem.link else lines


def _site(settings: Settings) -> str:
    public = urlsplit(settings.public_url or settings.dagster_public_url or "").hostname
    return f"Lens Pipeline at {public or socket.gethostname()}"
