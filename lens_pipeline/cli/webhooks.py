"""The command `webhooks`: how targets stand, a test, and what happened told again."""

import asyncio
import datetime as dt
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lens_pipeline.cli.session import dagster_session, json_option, print_json
from lens_pipeline.cli.tables import print_table
from lens_pipeline.core.startup import load_settings
from lens_pipeline.settings import SettingsError

if TYPE_CHECKING:
    from lens_pipeline.monitoring.webhooks.targets import MessageTarget


@click.group()
def webhooks() -> None:
    """The addresses of LENS_WEBHOOK_URLS and LENS_NOTIFY_URLS: what they took, and what waits."""


@webhooks.command("list")
@json_option
def list_targets(as_json: bool) -> None:
    """Show what each has taken, and what waits for it. Exit status 1: one takes nothing."""
    from lens_pipeline.core.locks import webhooks_lock
    from lens_pipeline.monitoring.leader import Leader
    from lens_pipeline.monitoring.webhooks.dispatcher import stored_states

    targets = _targets()
    with dagster_session("webhooks") as found:
        url = found.pipeline.endpoints.dagster_url
        states = stored_states(Leader(url, found.instance, webhooks_lock()), targets)
    lines = [
        {
            "target": name,
            "taken_at": _time(state.taken_at),
            "waiting": len(state.waiting),
            "failing_since": _time(state.failing_since),
            "problem": state.reason,
        }
        for name, state in states.items()
    ]
    if as_json:
        print_json({"targets": lines})
    else:
        titles = ["target", "last taken (UTC)", "waiting", "failing since (UTC)", "problem"]
        print_table(titles, ([str(one or "") for one in line.values()] for line in lines))
    sys.exit(1 if any(line["problem"] for line in lines) else 0)


@webhooks.command()
def test() -> None:
    """Send `webhook.test` to each, and say which took it."""
    from lens_pipeline.monitoring.webhooks.targets import http_client, trial

    async def answers(targets: "Sequence[MessageTarget]") -> list[str | None]:
        async with http_client() as client:
            sent = [target.send(trial(), client) for target in targets]
            return [answer.problem for answer in await asyncio.gather(*sent)]

    targets = _targets()
    problems = asyncio.run(answers(targets))
    for target, problem in zip(targets, problems, strict=True):
        print(f"FAIL {target.name}: {problem}" if problem else f"ok   {target.name}: taken")
    sys.exit(1 if any(problems) else 0)


@webhooks.command()
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    metavar="DATE",
    help="Also what was taken from this day or time on, in UTC.",
)
@click.option("--target", type=click.IntRange(1), metavar="N", help="Only to this one of the list.")
def replay(since: dt.datetime | None, target: int | None) -> None:
    """Send what waits at once, also to targets that answered 410; with --since, all from then on.

    A message has the same id again. The process `api` sends them, within seconds if it runs. People
    of LENS_NOTIFY_URLS are told again of what they took only with --target.
    """
    from lens_pipeline.monitoring.webhooks.state import WAITING
    from lens_pipeline.monitoring.webhooks.targets import WebhookTarget

    targets = _targets()
    if target is not None and target > len(targets):
        raise click.UsageError(f"there are {len(targets)} targets: `lens webhooks list`")
    chosen = [one for one in targets if since is None or isinstance(one, WebhookTarget)]
    if target is not None:
        chosen = [targets[target - 1]]
    asked = since.replace(tzinfo=dt.UTC).isoformat() if since else WAITING
    with dagster_session("webhooks") as found:
        for one in chosen:
            found.instance.run_storage.set_cursor_values({one.request_row: asked})
            print(f"{one.name}: is sent {f'all since {since}' if since else 'what waits'}")


def _targets() -> "list[MessageTarget]":
    """Raises SettingsError: there is none."""
    from lens_pipeline.monitoring.webhooks.targets import connect_targets

    targets = connect_targets(load_settings())
    if not targets:
        raise SettingsError("neither LENS_WEBHOOK_URLS nor LENS_NOTIFY_URLS is set")
    return targets


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(" ", "seconds")[:19]
