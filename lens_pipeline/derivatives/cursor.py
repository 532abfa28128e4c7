"""Where a sensor of new rows goes on."""

import datetime as dt
import json
from dataclasses import dataclass

from lens_pipeline.catalog.rows import Position

# Read again: a row may commit after one with a younger `updated_at`.
OVERLAP = dt.timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row seen and the rows that wait."""

    position: Position | None = None
    waiting: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        if not text:
            return cls()
        finished_at, row_id, *waiting = json.loads(text)
        position = Position(dt.datetime.fromisoformat(finished_at), row_id) if finished_at else None
        return cls(position, tuple(waiting))

    def dump(self) -> str | None:
        if self.position is None:
            return json.dumps([None, None, *self.waiting]) if self.waiting else None
        return json.dumps([self.position.finished_at.isoformat(), self.position.id, *self.waiting])
