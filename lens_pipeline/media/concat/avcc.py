"""The decoder configuration of H.264 (avcC, ISO/IEC 14496-15, 5.3.3.1)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

from lens_pipeline.media.concat.bits import Bits
from lens_pipeline.media.errors import MediaError

# Version, profile, compatibility, level, NAL length size, number of SPS.
_FIXED_BYTES = 6
# NAL header, profile, constraints and level.
_SPS_HEADER_BYTES = 4
_PPS_HEADER_BYTES = 1
_MOST_SPS = 31


@dataclass(frozen=True, slots=True)
class Configuration:
    fixed: bytes
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    extension: bytes  # chroma format and bit depths, from profile High on

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MediaError: `data` is no avcC."""
        if len(data) <= _FIXED_BYTES or data[0] != 1:
            raise MediaError("H.264 without parameter sets in its header")
        sps, offset = _sets(data, _FIXED_BYTES, data[5] & 0x1F)
        if offset >= len(data):
            raise MediaError("H.264 header is damaged")
        pps, offset = _sets(data, offset + 1, data[offset])
        return cls(data[:5], sps, pps, data[offset:])

    def serialise(self) -> bytes:
        sps, pps = (
            bytes([flags | len(units)])
            + b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
            for flags, units in ((0xE0, self.sps), (0, self.pps))
        )
        return self.fixed + sps + pps + self.extension


def merge(configurations: Sequence[bytes]) -> bytes:
    """All parameter sets in one. Raises MediaError: no avcC, or sets share an identifier."""
    parsed = [Configuration.parse(data) for data in configurations]
    first = parsed[0]
    if any(other.fixed[4] != first.fixed[4] for other in parsed):
        raise MediaError("shots write the lengths of their H.264 units differently")
    sps = _distinct((other.sps for other in parsed), _SPS_HEADER_BYTES)
    pps = _distinct((other.pps for other in parsed), _PPS_HEADER_BYTES)
    if len(sps) > _MOST_SPS:
        raise MediaError("too many parameter sets for one track")
    # Those of the most demanding shot.
    profile, _, level = (max(other.fixed[at] for other in parsed) for at in (1, 2, 3))
    compatibility = next(other.fixed[2] for other in parsed if other.fixed[1] == profile)
    extension = max((other.extension for other in parsed), key=len)
    fixed = bytes([1, profile, compatibility, level, first.fixed[4]])
    return Configuration(fixed, sps, pps, extension).serialise()


def _sets(data: bytes, offset: int, count: int) -> tuple[tuple[bytes, ...], int]:
    units: list[bytes] = []
    for _ in range(count):
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        if offset > len(data) or offset <= start:
            raise MediaError("H.264 header is damaged")
        units.append(data[start:offset])
    return tuple(units), offset


def _distinct(groups: Iterable[tuple[bytes, ...]], header_bytes: int) -> tuple[bytes, ...]:
    by_identifier: dict[int, bytes] = {}
    for unit in chain.from_iterable(groups):
        if by_identifier.setdefault(_identifier(unit, header_bytes), unit) != unit:
            raise MediaError("shots number different H.264 parameter sets alike")
    return tuple(by_identifier.values())


def _identifier(unit: bytes, header_bytes: int) -> int:
    """The first Exp-Golomb number."""
    try:
        return Bits(unit[header_bytes:]).unsigned()
    except ValueError as error:
        raise MediaError("H.264 header is damaged") from error
