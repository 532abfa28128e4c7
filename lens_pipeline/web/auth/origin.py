"""Requests that a page of another site may have sent through a browser."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from lens_pipeline import settings


def allowed_hosts(bind: str, named: Collection[str]) -> frozenset[str] | None:
    """Names of the server at `bind` that clients may use; None: any."""
    if not named and not settings.is_loopback(bind):
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", bind.lower(), *map(str.lower, named)})


def foreign_host(headers: Headers, hosts: Collection[str] | None) -> str | None:
    """Why the request does not address one of `hosts` (without ports); None if it does.

    With DNS rebinding, a foreign page's own name leads to this server.
    """
    name = host_name(headers.get("host", ""))
    if hosts is not None and name not in hosts:
        return f"refused: {name or 'no host'} is not in LENS_ALLOWED_HOSTS"
    return None


def foreign_origin(headers: Headers, proxies: Collection[str]) -> str | None:
    """Why the request is another site's; None if it is not. `proxies`: names of our proxies."""
    if "origin" in headers:
        origin = headers["origin"].rpartition("//")[2]
        if origin != headers.get("host", "") and host_name(origin) not in proxies:
            return "refused: sent by a page of another site, or LENS_ALLOWED_HOSTS lacks ours"
    return None


def host_name(host: str) -> str:
    """Without the port; empty if `host` is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
