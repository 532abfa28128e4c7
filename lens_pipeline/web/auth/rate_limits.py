"""Rate limits of failures, counted in the memory of each process.

What succeeds does not count: clients behind one proxy share an address with an attacker.
"""

import ipaddress
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.requests import HTTPConnection

from lens_pipeline.web.errors import ApiError

# A household's usual IPv6 network.
_IPV6_PREFIX = 64


class RateLimit:
    """At most `a_minute` failures of one client address are answered in detail."""

    def __init__(self, a_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(a_minute)
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, failed: HTTPConnection) -> None:
        """Raises ApiError 429 beyond the limit."""
        key = client_network(failed)
        if self._counter.hit(self._limit, key):
            return
        again = self._counter.get_window_stats(self._limit, key).reset_time - time.time()
        raise ApiError(
            429,
            "too_many_requests",
            "too many requests from this address: try again later",
            headers={"Retry-After": str(max(1, math.ceil(again)))},
        )


def client_network(connection: HTTPConnection) -> str:
    """The client's address, of which an IPv6 household has many."""
    address = connection.client.host if connection.client else ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed.packed, _IPV6_PREFIX), strict=False))
