"""Memory and CPU of each process of the pipeline: it publishes its own, and the HTTP app reads all.

They may be on several machines. Dagster's `kvs` is the one table that each of them writes.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace

import psutil
import psycopg2
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.core.locks import LockSession

logger = logging.getLogger(__name__)

_PUBLISH_SECONDS = 30.0
# What was published by then is of a process that lives.
_FRESH_SECONDS = 90.0
_KEYS = "lens/usage/"
_SESSION = "lens-pipeline-usage"
# Also deletes what processes left that ended an hour ago.
_PUBLISH = sa.text(
    """
    WITH old AS (
      DELETE FROM kvs WHERE starts_with(key, :keys) AND key <> :key
        AND CAST(CAST(value AS json) ->> 'at' AS float8) < extract(epoch FROM now()) - 3600)
    INSERT INTO kvs (key, value)
    VALUES (:key, CAST(jsonb_build_object('at', extract(epoch FROM now()),
                                          'usage', CAST(:usage AS jsonb)) AS text))
    ON CONFLICT (key) DO UPDATE SET value = excluded.value
    """
)
_READ = sa.text(
    """
    SELECT CAST(value AS json) -> 'usage' AS usage FROM kvs
     WHERE starts_with(key, :keys)
       AND CAST(CAST(value AS json) ->> 'at' AS float8) > extract(epoch FROM now()) - :seconds
     ORDER BY key
    """
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process and all that it has started."""

    role: str
    host: str
    pid: int
    memory_bytes: int
    cpu_seconds: float


_NAMES = {field.name for field in fields(Usage)}


def publish(role: str, dagster_url: str) -> None:
    """Publish this process's usage every half minute, in a thread, until it ends."""
    threading.Thread(target=_publish, args=(role, dagster_url), name="usage", daemon=True).start()


def read_usage(dagster_url: str) -> list[Usage]:
    """Of the processes that live. Raises SQLAlchemyError."""
    with closing(LockSession(dagster_url, _SESSION)) as session:
        found = session.execute(_READ, keys=_KEYS, seconds=_FRESH_SECONDS).scalars()
        # Another version may publish more, which is ignored, or less: then it is left out.
        return [Usage(**{n: one[n] for n in _NAMES}) for one in found if one.keys() >= _NAMES]


def publish_once(usage: Usage, dagster_url: str) -> None:
    """Raises SQLAlchemyError, psycopg2.Error."""
    key = f"{_KEYS}{usage.host}/{usage.role}/{usage.pid}"
    with closing(LockSession(dagster_url, _SESSION)) as session:
        session.execute(_PUBLISH, keys=_KEYS, key=key, usage=json.dumps(asdict(usage)))


def measure(role: str) -> Usage:
    """Shared memory counts in part, CPU with that of processes that have ended."""
    here = psutil.Process()
    memory, cpu = 0, 0.0
    for process in (here, *here.children(recursive=True)):
        try:
            memory += _memory_bytes(process)
            cpu += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue  # it has just ended
    return Usage(role, socket.gethostname(), os.getpid(), memory, round(cpu, 2))


def _publish(role: str, dagster_url: str) -> None:
    cpu_seconds = 0.0
    while True:
        try:
            usage = measure(role)
            # Of a process whose parent did not wait for it, nothing is left: no counter may fall.
            cpu_seconds = max(cpu_seconds, usage.cpu_seconds)
            publish_once(replace(usage, cpu_seconds=cpu_seconds), dagster_url)
        except (OSError, psutil.Error, SQLAlchemyError, psycopg2.Error) as error:
            logger.debug("usage is not published: %s", error)
        time.sleep(_PUBLISH_SECONDS)


def _memory_bytes(process: psutil.Process) -> int:
    if sys.platform == "linux":
        try:
            return process.memory_full_info().pss
        except psutil.AccessDenied:
            return process.memory_info().rss
    return process.memory_info().rss
