"""What must hold at the end, whatever went wrong: each rule is a function of what was found."""

import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import av
from av.error import FFmpegError
from PIL import Image

from lens_pipeline_tests.chaos.workload import MADE_FROM, Expected

# What a store holds beside the outputs of rows.
_KEPT_ELSEWHERE = ("cache/", "reports/")
_ORIGINAL = re.compile(r"[^/]+/originals/(.+)_[0-9a-f]{12}(?:_\d{1,3})?\.[a-z0-9]+")
# A good file may be given up on because its source was away, or what made it was killed, too often.
TOO_OFTEN = frozenset({"SourceUnavailable", "RunFailed"})
_SECONDS_OFF = 0.1


@dataclass(frozen=True)
class Standing:
    """Where one output stands."""

    asset: str
    row_id: str
    state: str
    error_class: str | None = None


@dataclass(frozen=True)
class Record:
    """The latest materialization of one output."""

    asset: str
    row_id: str
    path: str
    bytes: int
    width: int
    height: int
    revision: str
    duration_seconds: float | None = None


def wrong_standings(
    rows: Mapping[str, Expected], standings: Iterable[Standing], *, forgive: Collection[str] = ()
) -> list[str]:
    """Every finished row is ready, or dead for a true reason.

    `forgive`: reasons for which good rows may be dead as well.
    """
    wrong = []
    found = {(standing.asset, standing.row_id): standing for standing in standings}
    for row_id, row in rows.items():
        for derivative in MADE_FROM[row.kind]:
            standing = found.get((derivative.asset, row_id))
            if standing is None:
                wrong.append(f"{derivative.asset} of {row_id}: nobody knows of it")
            elif not _is_right(row, standing, forgive):
                due = f"dead: {', '.join(sorted(row.reasons))}" if row.reasons else "ready"
                is_now = f"{standing.state} {standing.error_class or ''}".strip()
                wrong.append(f"{derivative.asset} of {row_id}: {is_now}, should be {due}")
    return wrong


def _is_right(row: Expected, standing: Standing, forgive: Collection[str]) -> bool:
    if standing.state == "ready":
        return not row.reasons
    # A poster of a master that is dead waits for ever.
    if standing.asset == "master_poster" and row.reasons:
        return standing.state in ("none", "dead")
    return standing.state == "dead" and standing.error_class in (row.reasons or forgive)


def wrong_objects(records: Iterable[Record], objects: Mapping[str, bytes]) -> list[str]:
    """Every object is whole, and is what its metadata say."""
    wrong = []
    for record in records:
        body = objects.get(record.path)
        problem = "is not there" if body is None else _problem(record, body)
        if problem:
            wrong.append(f"{record.asset} of {record.row_id}: {record.path} {problem}")
    return wrong


def _problem(record: Record, body: bytes) -> str | None:
    if len(body) != record.bytes:
        return f"has {len(body)} bytes, its metadata say {record.bytes}"
    try:
        width, height, seconds = _measured(record, body)
    except (OSError, SyntaxError, FFmpegError) as error:
        return f"cannot be decoded: {error}"
    if (width, height) != (record.width, record.height):
        return f"is {width}x{height}, its metadata say {record.width}x{record.height}"
    if record.duration_seconds is None or seconds is None:
        return None
    if abs(seconds - record.duration_seconds) > _SECONDS_OFF:
        return f"lasts {seconds:.2f} s, its metadata say {record.duration_seconds:.2f}"
    return None


def _measured(record: Record, body: bytes) -> tuple[int, int, float | None]:
    """Width, height and, of a video, seconds, with every frame decoded."""
    if record.path.endswith(".webp"):
        with Image.open(io.BytesIO(body), formats=["WEBP"]) as picture:
            picture.load()
            return *picture.size, None
    with av.open(io.BytesIO(body), "r") as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        rate = stream.average_rate
        return stream.width, stream.height, float(frames / rate) if rate else None


def orphan_objects(
    records: Iterable[Record], keys: Iterable[str], rows: Collection[str]
) -> list[str]:
    """No object is nobody's; `rows`: all that ever were, as originals outlive them."""
    owned = {record.path for record in records}
    return [
        f"{key} belongs to no row"
        for key in sorted(keys)
        if key not in owned
        and not key.startswith(_KEPT_ELSEWHERE)
        and row_of_original(key) not in rows
    ]


def row_of_original(key: str) -> str | None:
    """None: it is another object."""
    found = _ORIGINAL.fullmatch(key)
    return found and found[1]


def made_too_often(
    made: Mapping[tuple[str, str, str], int], broken_off: Counter[tuple[str, str]]
) -> list[str]:
    """Each output was stored once per revision, and once more for each run that was broken off.

    `made`: by asset, row and revision. `broken_off`: by asset and row, and so are the runs that a
    person asked for.
    """
    return [
        f"{asset} of {row_id} was made {times} times as {revision},"
        f" with {broken_off[asset, row_id]} runs broken off"
        for (asset, row_id, revision), times in made.items()
        if times > 1 + broken_off[asset, row_id]
    ]
