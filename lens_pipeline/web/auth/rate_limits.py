"""How often somebody may try; counted in memory, by each process for itself."""

import ipaddress
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from lens_pipeline.web.errors import ApiError

# What one household or machine gets of IPv6 addresses.
_IPV6_PREFIX = 64


class RateLimit:
    """So many requests a minute from one client address."""

    def __init__(self, a_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(a_minute)
        # Two numbers an address, whatever it sends; forgotten when its minutes are over.
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, address: str) -> None:
        """Count one request; raises ApiError (429) if that was one too many."""
        key = _household(address)
        if self._counter.hit(self._limit, key):
            return
        again = self._counter.get_window_stats(self._limit, key).reset_time - time.time()
        raise ApiError(
            429,
            "too_many_requests",
            "too many requests from this address: try again later",
            headers={"Retry-After": str(max(1, math.ceil(again)))},
        )


def _household(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        if mapped is None:
            return str(ipaddress.ip_network((parsed.packed, _IPV6_PREFIX), strict=False))
        return str(mapped)
    return address
