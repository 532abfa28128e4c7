"""The decoder configuration of HEVC (hvcC, ISO/IEC 14496-15, 8.3.3.1)."""

# Of the number of arrays, which follow.
_COUNT_AT = 22
_ARRAY_HEADER_BYTES = 3
_IS_COMPLETE = 0x80
_TYPE = 0x3F
_PARAMETER_SETS = frozenset({32, 33, 34})


def as_hvc1(configuration: bytes) -> bytes:
    """The configuration as `hvc1` calls for it: all parameter sets are said to be in it.

    `hev1` of the same packets may say otherwise. What is no hvcC stays as it is.
    """
    if len(configuration) <= _COUNT_AT or configuration[0] != 1:
        return configuration
    data = bytearray(configuration)
    offset = _COUNT_AT + 1
    for _ in range(data[_COUNT_AT]):
        if offset + _ARRAY_HEADER_BYTES > len(data):
            return configuration
        if data[offset] & _TYPE in _PARAMETER_SETS:
            data[offset] |= _IS_COMPLETE
        units = int.from_bytes(data[offset + 1 : offset + _ARRAY_HEADER_BYTES], "big")
        offset += _ARRAY_HEADER_BYTES
        for _ in range(units):
            offset += 2 + int.from_bytes(data[offset : offset + 2], "big")
    return bytes(data)
