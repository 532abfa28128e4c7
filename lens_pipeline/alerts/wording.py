"""What messages say."""

import datetime as dt
import re
import socket
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from lens_pipeline.alerts import links
from lens_pipeline.alerts.ledger import Notice, Word
from lens_pipeline.alerts.targets import Message, Tone
from lens_pipeline.core.durations import spoken
from lens_pipeline.derivatives.dead_letters import GivenUp, explain_all
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.settings import Settings

# Of many, so many are named.
_NAMED = 5
_LONGEST_REASON = 200
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def compose(
    notices: Sequence[Notice], settings: Settings, details: Mapping[str, Sequence[str]]
) -> Message:
    """One message for all of them, the new problems first; `details` says more of some, by key."""
    ordered = sorted(notices, key=lambda notice: list(Word).index(notice.word))
    lines = [
        line for notice in ordered for line in _lines(notice, details.get(notice.problem.key, ()))
    ]
    begun = [n for n in ordered if n.word in (Word.BEGAN, Word.GREW)]
    over = [n for n in ordered if n.word is Word.OVER]
    first, tone = ordered[0], Tone.WARNING
    if begun:
        tone = Tone.FAILURE
    elif len(over) == len(ordered):
        tone = Tone.SUCCESS
    word = "over: " if first.word is Word.OVER else ""
    others = f" and {len(ordered) - 1} more" if len(ordered) > 1 else ""
    title = f"{_site(settings)}: {word}{first.problem.text.partition(':')[0]}{others}"
    return Message(title, "\n".join(lines), tone)


def trial(settings: Settings) -> Message:
    """A message that shows whether alerts arrive."""
    pages = links.pages(settings, "library")
    return Message(f"{_site(settings)}: test of the alerts", f"All is well.\n{pages}", Tone.INFO)


def of_letters(pipeline: Pipeline, letters: Sequence[GivenUp]) -> list[str]:
    """The first of these dead letters by name, reason and link; raises SQLAlchemyError."""
    named = letters[:_NAMED]
    lines = []
    reasons = explain_all(pipeline, [letter.standing for letter in named])
    for letter, words in zip(named, reasons, strict=True):
        reason = _UNPRINTABLE.sub(" ", words or "")[:_LONGEST_REASON]
        link = links.partition(pipeline.settings, letter.asset, letter.id)
        lines.append(f"- {letter.asset} {letter.id}: {letter.standing.error_class}: {reason}")
        lines.append(f"  {link}")
    if len(letters) > len(named):
        lines.append(f"- and {len(letters) - len(named)} more")
    return lines


def _lines(notice: Notice, details: Sequence[str]) -> list[str]:
    problem = notice.problem
    since = dt.datetime.fromtimestamp(notice.since, dt.UTC)
    lasted = spoken(max(time.time() - notice.since, 0.0))
    moment = f"since {since:%Y-%m-%d %H:%M} UTC, {lasted}"
    if notice.word is Word.OVER:
        return [f"OVER: {problem.text} ({moment})"]
    lines = [f"{notice.word.upper()}: {problem.text} ({moment})"]
    if notice.new:
        lines += [f"{len(notice.new)} new:", *details]
    if problem.link:
        lines.append(problem.link)
    return lines


def _site(settings: Settings) -> str:
    public = urlsplit(settings.public_url or settings.dagster_public_url or "").hostname
    return f"Lens Pipeline at {public or socket.gethostname()}"
