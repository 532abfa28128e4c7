"""Reads the numbers of a NAL unit (H.264, 7.2 and 9.1)."""


class Bits:
    """Raises ValueError beyond the end."""

    def __init__(self, payload: bytes) -> None:
        """`payload`: of the unit, without its header."""
        # Bytes that only keep it from looking like a start code.
        data = payload.replace(b"\0\0\3", b"\0\0")
        self._bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""
        self._at = 0

    def take(self, count: int) -> int:
        end = self._at + count
        if end > len(self._bits):
            raise ValueError("a header ends early")
        found, self._at = self._bits[self._at : end], end
        return int(found, 2) if found else 0

    def unsigned(self) -> int:
        """An Exp-Golomb number."""
        zeros = self._bits.find("1", self._at) - self._at
        if zeros < 0:
            raise ValueError("a header ends early")
        self._at += zeros
        return self.take(zeros + 1) - 1

    def signed(self) -> int:
        number = self.unsigned()
        return (number + 1) // 2 if number % 2 else -number // 2
