"""Reads the numbers of a NAL unit (H.264, 7.2 and 9.1)."""

_MOST = (1 << 32) - 2


class Bits:
    """Raises ValueError beyond the end, and for numbers that are too large."""

    def __init__(self, payload: bytes) -> None:
        """`payload`: of the unit, without its header."""
        # Bytes that only keep it from looking like a start code.
        data = payload.replace(b"\0\0\3", b"\0\0")
        self._rest = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("a header ends early")
        self._left -= count
        found = self._rest >> self._left
        self._rest ^= found << self._left
        return found

    def unsigned(self, most: int = _MOST) -> int:
        """An Exp-Golomb number."""
        zeros = self._left - self._rest.bit_length()
        self.take(zeros)
        number = self.take(zeros + 1) - 1
        if number > most:
            raise ValueError(f"{number} in a header, over {most}")
        return number

    def signed(self) -> int:
        number = self.unsigned()
        return (number + 1) // 2 if number % 2 else -number // 2
