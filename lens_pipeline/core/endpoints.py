"""Where database and broker are, by settings or in `$LENS_HOME`. It imports nothing slow."""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from lens_pipeline.errors import LensError
from lens_pipeline.settings import Settings


class StackError(LensError):
    """A service cannot be started or found; the message is one line with the fix."""


class NotRunning(StackError):
    """An embedded service is needed and not running."""


@dataclass(frozen=True)
class Endpoints:
    """URLs with passwords."""

    database_url: str
    dagster_url: str
    broker_url: str
    """Empty if not needed."""
    result_url: str
    """Empty if results are dropped."""

    def environment(self) -> dict[str, str]:
        """Settings that replace the services' owner."""
        return {
            "LENS_DATABASE_URL": self.database_url,
            "LENS_DAGSTER_URL": self.dagster_url,
            "LENS_BROKER_URL": self.broker_url,
        }


@dataclass(frozen=True)
class Services:
    """What runs in `$LENS_HOME`; None for services that the settings name."""

    pid: int
    command: str
    database_url: str | None
    dagster_url: str | None
    broker_url: str | None
    ready: bool
    """Others may use the services."""

    @classmethod
    def read(cls, home: Path) -> "Services | None":
        """Those of a living owner, or None. Raises StackError."""
        try:
            services = cls(**json.loads(services_file(home).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError) as error:
            raise StackError(
                f"{services_file(home)} cannot be read ({error}):"
                " remove it if `lens up` does not run"
            ) from error
        return services if _is_alive(services.pid) else None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def services_file(home: Path) -> Path:
    return home / "services.json"


def running_up(home: Path) -> Services | None:
    """The services of a `lens up` that runs at `home`. Raises StackError."""
    found = Services.read(home)
    return found if found and found.command == "up" else None


def resolve(settings: Settings, *, broker: bool = True) -> Endpoints:
    """Raises NotRunning (of a broker if `broker`), StackError: one database for two purposes."""
    is_explicit = settings.database_url and settings.broker_url
    services = None if is_explicit else Services.read(settings.resolved_home)
    return endpoints_of(settings, services, broker=broker)


def endpoints_of(settings: Settings, services: Services | None, *, broker: bool) -> Endpoints:
    """Explicit URLs win. Raises as `resolve` does."""
    database_url = settings.database_url or (services and services.database_url)
    if not database_url:
        raise _not_running(settings, services, "LENS_DATABASE_URL")
    dagster_url = settings.dagster_url
    if not dagster_url and not settings.database_url:
        dagster_url = services and services.dagster_url
    dagster_url = dagster_url or _with_database(database_url, "dagster")
    if dagster_url == database_url:
        raise StackError(
            "LENS_DATABASE_URL names the database `dagster`, which Dagster's storage takes by"
            " default: set LENS_DAGSTER_URL to another one"
        )
    broker_url = settings.broker_url or (services and services.broker_url) or ""
    if broker and not broker_url:
        raise _not_running(settings, services, "LENS_BROKER_URL")
    result_url = settings.result_url or ""
    # The sender would never read its queue of results.
    if result_url.startswith("rpc"):
        result_url = ""
    return Endpoints(database_url, dagster_url, broker_url, result_url)


def without_password(url: str) -> str:
    """`url` without password and options."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}://{user}{at if user else ''}{place.partition('?')[0]}"


def _not_running(settings: Settings, services: Services | None, variable: str) -> NotRunning:
    if services is None:
        return NotRunning(
            f"nothing runs at {settings.resolved_home}: start `lens up`, or set {variable}"
        )
    return NotRunning(
        f"`lens {services.command}` (pid {services.pid}) at {settings.resolved_home} runs without"
        f" the service that {variable} stands for: set {variable} here too"
    )


def _with_database(url: str, database: str) -> str:
    """Not by urllib, which cannot rebuild `postgresql:///`."""
    return re.sub(r"^([^:]+://[^/?#]*)(/[^?#]*)?", rf"\g<1>/{database}", url)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
