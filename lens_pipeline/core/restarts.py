"""How often `lens up` has started each process again, in a file that the processes read."""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lens_pipeline.core.endpoints import running_up
from lens_pipeline.core.files import write_private

logger = logging.getLogger(__name__)

# So many restarts within this time are a crash loop; its pauses grow by a second each.
_LOOP_RESTARTS, _LOOP_SECONDS = 3, 600.0


@dataclass(frozen=True, slots=True)
class Restarts:
    """Of one process, since `lens up` was started."""

    count: int = 0
    latest: tuple[float, ...] = ()
    """Times of the last few, in seconds since the epoch."""

    def is_loop(self, now: float) -> bool:
        return len(self.latest) == _LOOP_RESTARTS and now - self.latest[0] < _LOOP_SECONDS


class RestartLog:
    """Written by `lens up`."""

    def __init__(self, home: Path, names: Iterable[str]) -> None:
        self._file = _file(home)
        self._restarts = dict.fromkeys(names, Restarts())
        self._write()

    def note(self, name: str) -> None:
        known = self._restarts[name]
        latest = (*known.latest, time.time())[-_LOOP_RESTARTS:]
        self._restarts[name] = replace(known, count=known.count + 1, latest=latest)
        self._write()

    def _write(self) -> None:
        restarts = {name: asdict(one) for name, one in self._restarts.items()}
        try:
            write_private(self._file, json.dumps(restarts))
        except OSError as error:
            # A full disk must not stop the processes.
            logger.warning("%s cannot be written: %s", self._file, error)


def read_restarts(home: Path) -> dict[str, Restarts]:
    """By process; empty unless `lens up` runs at `home`. Raises StackError."""
    if not running_up(home) or not _file(home).exists():
        return {}
    kept = json.loads(_file(home).read_text(encoding="utf-8"))
    return {name: Restarts(one["count"], tuple(one["latest"])) for name, one in kept.items()}


def in_words(restarts: Mapping[str, Restarts]) -> str:
    """Empty if nothing was started again."""
    again = {name: one.count for name, one in restarts.items() if one.count}
    return ", ".join(f"{name} {n} time{'s'[: n > 1]}" for name, n in sorted(again.items()))


def _file(home: Path) -> Path:
    return home / "run" / "restarts.json"
