"""Plans the pieces of an order: formats and fragments of one film. Pure: no database, no clock."""

import hashlib
import math
import re
import uuid
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

# Sizes of the named formats, in pixels.
FORMATS = {"16:9": (1920, 1080), "9:16": (1080, 1920), "1:1": (1080, 1080), "4:5": (1080, 1350)}
SMALLEST, LARGEST = 16, 8192
_SIZE = re.compile("([0-9]{1,6})x([0-9]{1,6})")
MOST_FORMATS, MOST_FRAGMENTS = 12, 100
USUAL_LENGTH = (15.0, 30.0)
# Seconds: of a film that fragments are cut from, and of any part.
_SHORTEST_FILM, _SHORTEST_PART = 10.0, 0.1
# Seconds that rounding changes at most.
_HALF = 0.005
# Seconds that the beginning of a fragment may be moved to a scene change.
_REACH = 4.0
# Ids of an order's pieces are made from its own.
_NAMESPACE = uuid.UUID("8d2f6a1e-5d0b-4b7e-9a53-0f0c1f2c9b4d")


class InvalidOrder(Exception):
    """The order cannot be carried out; `code` is for programs."""

    def __init__(self, code: str, field: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.field = field


@dataclass(frozen=True, slots=True)
class Film:
    """A master that is ready."""

    seconds: float
    width: int
    height: int
    joins: Sequence[float] = ()
    """Seconds at which a shot begins: the scene changes that are known without decoding it."""


@dataclass(frozen=True, slots=True)
class Order:
    formats: Sequence[str]
    start: float | None = None
    end: float | None = None
    count: int | None = None
    """Fragments of each format; None: the part as a whole."""
    length: tuple[float, float] | None = None
    """Seconds of the shortest and the longest fragment."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    format: str
    width: int
    height: int
    start: float | None
    end: float | None


@dataclass(slots=True)
class _Cuts:
    """Fragments of a part of a film."""

    begin: float
    end: float
    shortest: float
    longest: float
    joins: Sequence[float]
    seed: int
    taken: set[tuple[float, float]] = field(default_factory=set)

    def cut(self, number: int, count: int) -> tuple[float, float]:
        """The `number`th of `count`, whose beginnings are spread over the part."""
        share, place = (_chance(f"{self.seed}/{number}/{what}") for what in ("length", "place"))
        length = self.shortest + share * (self.longest - self.shortest)
        room = self.end - self.begin - length
        at = self.begin + room * (number + place) / count
        start = self._scene_near(at, at - _REACH, min(at + _REACH, self.end - self.shortest))
        latest = min(start + self.longest, self.end)
        stop = self._scene_near(min(start + length, latest), start + self.shortest, latest)
        # The same once more would be of no use.
        if (start, stop) in self.taken:
            start, stop = self._free_near(at, at + length)
        self.taken.add((start, stop))
        return start, stop

    def _free_near(self, start: float, stop: float) -> tuple[float, float]:
        """The nearest that is not taken, in hundredths of a second. Raises InvalidOrder."""
        for step in range(len(self.taken) + 1):
            for move in (step / 100, -step / 100):
                moved = _rounded(start + move), _rounded(stop + move)
                is_inside = self.begin <= moved[0] + _HALF and moved[1] - _HALF <= self.end
                if is_inside and moved not in self.taken:
                    return moved
        raise InvalidOrder(
            "impossible_count",
            "count",
            f"{self.end - self.begin:.3f} s of film have no room for as many different fragments"
            f" of {stop - start:.2f} s",
        )

    def _scene_near(self, wanted: float, earliest: float, latest: float) -> float:
        """The nearest join within these limits, or `wanted`."""
        earliest = max(earliest, self.begin)
        joins = [one for one in self.joins if earliest <= one <= latest]
        return min(joins, key=lambda one: abs(one - wanted), default=_rounded(wanted))


def plan(order: Order, film: Film | None) -> list[Piece]:
    """By time, then in the order of the formats; the same for the same order and film.

    `film`: None if it is not ready, which fragments need. Raises InvalidOrder.
    """
    if not order.formats:
        raise InvalidOrder("no_formats", "formats", f"name a format: {', '.join(FORMATS)} or WxH")
    if len(order.formats) > MOST_FORMATS:
        raise InvalidOrder(
            "too_many_formats",
            "formats",
            f"an order has at most {MOST_FORMATS} formats, not {len(order.formats)}",
        )
    sizes = {size_of(name): name for name in order.formats}
    _check_part(order, film)
    parts: list[tuple[float | None, float | None]] = [(order.start, order.end)]
    if order.count is not None:
        parts = [*_fragments(order, film, order.count)]
    return [Piece(name, *size, start, end) for start, end in parts for size, name in sizes.items()]


def size_of(name: str) -> tuple[int, int]:
    """Raises InvalidOrder."""
    if name in FORMATS:
        return FORMATS[name]
    found = _SIZE.fullmatch(name)
    if found is None:
        raise InvalidOrder(
            "unknown_format",
            "formats",
            f"{name[:50]!r} is no format: name one of {', '.join(FORMATS)}, or a size such as"
            " 1280x720",
        )
    width, height = int(found[1]), int(found[2])
    if not all(SMALLEST <= edge <= LARGEST for edge in (width, height)):
        raise InvalidOrder(
            "impossible_size",
            "formats",
            f"{name!r}: width and height must be {SMALLEST} to {LARGEST} pixels",
        )
    return width, height


def name_of(width: int, height: int) -> str:
    """The format that a row was ordered in."""
    names = {size: name for name, size in FORMATS.items()}
    return names.get((width, height), f"{width}x{height}")


def seed_of(order_id: str) -> int:
    """Of an order that names none: the same whenever it is repeated."""
    return int.from_bytes(hashlib.sha256(order_id.encode()).digest()[:4])


def piece_ids(project_id: str, order_id: str, count: int) -> list[str]:
    """Of an order's pieces; UUIDs, as a host's column may want."""
    name = f"{project_id}/{order_id}"
    return [str(uuid.uuid5(_NAMESPACE, f"{name}/{number}")) for number in range(count)]


def sequences(pieces: Iterable[tuple[str, Hashable, float | None]]) -> dict[str, int]:
    """The number of each within its group, from 1 on: by id, of (id, group, start)."""
    numbers: dict[str, int] = {}
    counts = Counter[Hashable]()
    for piece_id, group, _ in sorted(pieces, key=lambda piece: (piece[2] or 0.0, piece[0])):
        counts[group] += 1
        numbers[piece_id] = counts[group]
    return numbers


def _check_part(order: Order, film: Film | None) -> None:
    start = order.start or 0.0
    # 5.1 - 5 is less than 0.1.
    if order.end is not None and order.end - start < _SHORTEST_PART - 0.001:
        raise InvalidOrder(
            "empty_part",
            "end",
            f"the end ({order.end:g} s) is not at least {_SHORTEST_PART:g} s after the start"
            f" ({start:g} s)",
        )
    if film is None:
        return
    # The film's length is known to the millisecond.
    for name, at in (("start", start + _SHORTEST_PART), ("end", (order.end or 0.0) - 0.001)):
        if at > film.seconds:
            said = order.start if name == "start" else order.end
            raise InvalidOrder(
                "outside_film",
                name,
                f"the {name} ({said or 0.0:g} s) is outside the film, which has"
                f" {film.seconds:.3f} s",
            )


def _fragments(order: Order, film: Film | None, count: int) -> list[tuple[float, float]]:
    if not 1 <= count <= MOST_FRAGMENTS:
        raise InvalidOrder(
            "impossible_count", "count", f"count must be 1 to {MOST_FRAGMENTS}, not {count}"
        )
    if film is None:
        raise InvalidOrder(
            "master_not_ready",
            "count",
            "the film is not ready: fragments are placed by its length and its scenes",
        )
    if film.seconds < _SHORTEST_FILM:
        raise InvalidOrder(
            "film_too_short",
            "count",
            f"the film has {film.seconds:.1f} s: fragments are cut from films of at least"
            f" {_SHORTEST_FILM:g} s",
        )
    begin, end = order.start or 0.0, min(order.end or film.seconds, film.seconds)
    shortest, longest = _lengths(order, end - begin)
    joins = [_before(one) for one in film.joins]
    cuts = _Cuts(begin, end, shortest, longest, joins, order.seed)
    return sorted(cuts.cut(number, count) for number in range(count))


def _lengths(order: Order, seconds: float) -> tuple[float, float]:
    """Of the fragments of a part of `seconds`; the usual ones give way to a short film."""
    if order.length is None:
        return min(USUAL_LENGTH[0], seconds / 2), min(USUAL_LENGTH[1], seconds)
    shortest, longest = order.length
    if not 1 <= shortest <= longest:
        raise InvalidOrder(
            "impossible_length",
            "length",
            "length has the seconds of the shortest and of the longest fragment, from 1 s on",
        )
    if longest > seconds:
        raise InvalidOrder(
            "outside_film",
            "length",
            f"fragments of {longest:g} s do not fit into {seconds:.3f} s of film",
        )
    return shortest, longest


def _chance(text: str) -> float:
    """From 0 to 1, the same in every version of Python."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _before(join: float) -> float:
    """Hundredths of a second within the frame before: a part begins with the first frame at or
    after its start, and lengths of shots are rounded.
    """
    return max(0.0, math.floor((join - 0.005) * 100) / 100)


def _rounded(seconds: float) -> float:
    return round(seconds, 2)
