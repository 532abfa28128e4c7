"""Rows of the application as frozen values."""

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

# `status` of a finished generation.
FINISHED = ("success", "succeeded", "completed")


def known_time(time: dt.datetime | None) -> dt.datetime | None:
    """None for the year 1 and before it, by which some hosts mean no time."""
    return time if time and time.year > 1 else None


class Kind(StrEnum):
    """One table each, but photos and videos share one."""

    PHOTO = "photo"
    VIDEO = "video"
    MASTER = "master"
    SCALED = "scaled"
    SHOT = "shot"


@dataclass(frozen=True, slots=True)
class Generation:
    id: str
    user_id: str
    kind: Kind
    asset_url: str
    """The address or object key of its file; empty: none."""
    finished_at: dt.datetime | None
    """When the row last changed."""
    created_at: dt.datetime | None = None


class ShotProblem(StrEnum):
    """Why an asset of the project cannot be a shot."""

    EMPTY = "empty"
    """It names neither a generation nor a file."""
    NO_GENERATION = "no_generation"
    NO_VIDEO = "no_video"
    NO_FILE = "no_file"
    UNUSABLE = "unusable"
    """Its file was looked at."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A shot of a master. Exactly one of `source`, `waits` and `problem` is set."""

    asset_id: str
    source: str | None = None
    """A URL or object key."""
    waits: str | None = None
    """What it waits for, in words."""
    problem: str | None = None
    problem_code: ShotProblem | None = None
    finished_at: dt.datetime | None = None
    generation_id: str | None = None
    """Of what was generated; None: it was uploaded."""
    quiet: bool = False
    """Its sound keeps its level."""


@dataclass(frozen=True, slots=True)
class MasterVideo:
    """Shots of a project that become one video, in order."""

    id: str
    project_id: str
    name: str
    shots: tuple[Shot, ...]
    finished_at: dt.datetime | None
    """The latest of its row and shots."""
    problem: str | None = None
    """Of `shots_config` as a whole."""

    @property
    def shots_config(self) -> list[str]:
        """Ids of assets."""
        return [shot.asset_id for shot in self.shots]


class Fill(StrEnum):
    """What is where the master's shape leaves a rendition free."""

    BLUR = "blur"
    """The film itself, scaled to cover and blurred."""
    BLACK = "black"
    CROP = "crop"
    """Nothing: the film covers the rendition, and what is beyond its edges is lost."""


# After the fill in its column: the film may be enlarged.
ENLARGED = " enlarged"


@dataclass(frozen=True, slots=True)
class ScaledVideo:
    """A rendition: a master or a part of it, at another size."""

    id: str
    master_id: str
    start_seconds: float | None
    end_seconds: float | None
    width: int
    height: int
    finished_at: dt.datetime | None
    master: MasterVideo | None
    """None: none that is usable."""
    fill: Fill | None = None
    """None: black, and the film is enlarged if it is smaller; so were all up to version 0.3."""
    enlarged: bool = False
    """Whether a smaller film is enlarged; else the rendition gets smaller."""
    focus: tuple[float, float] | None = None
    """What a crop keeps, as shares of width and height; None: the centre."""
    order_id: str | None = None
    """Of the order that it is a piece of."""

    @property
    def place(self) -> tuple[str, float]:
        """Its master, and the second of that at which it begins."""
        return self.master_id, self.start_seconds or 0.0


@dataclass(frozen=True, slots=True)
class ProjectAsset:
    """What a project may use as a shot of its masters."""

    id: str
    shot: Shot
    generation_id: str | None
    asset_url: str | None

    @property
    def finished_at(self) -> dt.datetime | None:
        return self.shot.finished_at


Row = Generation | MasterVideo | ScaledVideo | ProjectAsset


@dataclass(frozen=True, slots=True)
class UnusableRow:
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order (time of the row, id)."""

    finished_at: dt.datetime
    id: str

    def earlier(self, span: dt.timedelta) -> dt.datetime:
        """The time `span` before, or the first that Python has."""
        first = dt.datetime.min.replace(tzinfo=dt.UTC)
        return max(self.finished_at, first + span) - span


class Digest(NamedTuple):
    """Of some rows: differs if one has come, gone or changed its time."""

    text: str
    has_later: bool
    """Whether one is later than a position."""
