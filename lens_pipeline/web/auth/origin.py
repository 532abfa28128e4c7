"""Requests that a page of another site may have sent through a browser."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from lens_pipeline import settings


def allowed_hosts(bind: str, named: Collection[str]) -> frozenset[str] | None:
    """Names by which clients may address the server at `bind`; None: any."""
    if not named and not settings.is_loopback(bind):
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", bind.lower(), *map(str.lower, named)})


def foreign_host(headers: Headers, hosts: Collection[str] | None) -> str | None:
    """Why the request does not address this server; None if it does.

    `hosts` (without ports) protect from DNS rebinding: a page whose own name leads to this server
    would be of the same origin.
    """
    name = host_name(headers.get("host", ""))
    if hosts is not None and name not in hosts:
        return f"refused: {name or 'no host'} is not in LENS_ALLOWED_HOSTS"
    return None


def foreign_origin(headers: Headers, proxies: Collection[str]) -> str | None:
    """Why another site's page sent the request; None if none did.

    `proxies` are names under which a proxy serves the pages.
    """
    if "origin" in headers:
        origin = headers["origin"].rpartition("//")[2]
        if origin != headers.get("host", "") and host_name(origin) not in proxies:
            return "refused: sent by a page of another site, or LENS_ALLOWED_HOSTS lacks ours"
    return None


def host_name(host: str) -> str:
    """The name in a `Host` header; empty if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
