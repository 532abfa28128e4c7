"""H.264's decoder configuration (avcC, ISO/IEC 14496-15, 5.3.3.1): its parameter sets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

from lens_pipeline.media.errors import MediaError

# Version, profile, compatibility, level, size of NAL lengths (two bits), number of SPS (five).
_FIXED_BYTES = 6
# Profile, constraints and level stand between an SPS's NAL header and its identifier.
_SPS_HEADER_BYTES = 4
_PPS_HEADER_BYTES = 1
_MOST_SPS = 31
# An identifier is at most 255, which takes 17 bits.
_IDENTIFIER_BYTES = 3


@dataclass(frozen=True, slots=True)
class Configuration:
    """An avcC box's content."""

    fixed: bytes
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    extension: bytes
    """Chroma format and bit depths, for profiles from High on."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the content of an avcC box. Raises MediaError: it is none."""
        if len(data) <= _FIXED_BYTES or data[0] != 1:
            raise MediaError("H.264 without parameter sets in its header")
        sps, offset = _sets(data, _FIXED_BYTES, data[5] & 0x1F)
        if offset >= len(data):
            raise MediaError("H.264 header is damaged")
        pps, offset = _sets(data, offset + 1, data[offset])
        return cls(data[:5], sps, pps, data[offset:])

    def serialise(self) -> bytes:
        sps, pps = (
            b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
            for units in (self.sps, self.pps)
        )
        return b"".join(
            (
                self.fixed,
                bytes([0xE0 | len(self.sps)]),
                sps,
                bytes([len(self.pps)]),
                pps,
                self.extension,
            )
        )


def merge(configurations: Sequence[bytes]) -> bytes:
    """One avcC with the parameter sets of all, for a track that holds packets of all.

    Raises MediaError: not avcC, or two different sets have the same identifier.
    """
    parsed = [Configuration.parse(data) for data in configurations]
    first = parsed[0]
    if any(other.fixed[4] != first.fixed[4] for other in parsed):
        raise MediaError("shots write the lengths of their H.264 units differently")
    sps = _distinct((other.sps for other in parsed), _SPS_HEADER_BYTES)
    pps = _distinct((other.pps for other in parsed), _PPS_HEADER_BYTES)
    if len(sps) > _MOST_SPS:
        raise MediaError("too many parameter sets for one track")
    # A decoder that looks at the header alone must be made for the most demanding shot.
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
    """The first Exp-Golomb number (ITU-T H.264, 9.1) of a parameter set."""
    data = unit[header_bytes : header_bytes + _IDENTIFIER_BYTES].ljust(_IDENTIFIER_BYTES, b"\0")
    bits = f"{int.from_bytes(data, 'big'):024b}"
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "0", 2) - 1
