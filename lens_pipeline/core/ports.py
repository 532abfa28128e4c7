"""TCP ports on this machine: free or taken, and by which process."""

import errno
import http.client
import ipaddress
import random
import socket
from http import HTTPStatus
from pathlib import Path

import psutil

from lens_pipeline.core.endpoints import StackError

LOOPBACK = "127.0.0.1"
# An outgoing connection (from 32768 on Linux) could take the port of a server that restarts.
_RANGE = range(20_000, 32_000)
_ATTEMPTS = 100
_drawn: list[socket.socket] = []


def is_free(port: int, host: str = LOOPBACK) -> bool:
    return _hindrance(port, host) is None


def _hindrance(port: int, host: str) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def free_port() -> int:
    """Draw a port that no other process draws before its server listens. Raises StackError."""
    for port in random.SystemRandom().sample(_RANGE, _ATTEMPTS):
        if is_free(port) and _draw(port):
            return port
    raise StackError(f"no free port between {_RANGE.start} and {_RANGE.stop} on {LOOPBACK}")


def _draw(port: int) -> bool:
    """Claim `port` for the life of this process; False: another has."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        # An abstract name belongs to the network namespace, as ports do.
        claim.bind(f"\0lens-port-{port}")
    except OSError as error:
        claim.close()
        # Only Linux has such names.
        return error.errno != errno.EADDRINUSE
    _drawn.append(claim)
    return True


def accepts_at(path: Path) -> bool:
    """Whether a server listens at a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def serves(bind: str, port: int, path: str) -> bool:
    """Whether it answers with 200."""
    connection = http.client.HTTPConnection(reachable_host(bind), port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def reachable_host(bind: str) -> str:
    """Where this machine reaches a server."""
    if bind == "localhost":
        return LOOPBACK
    address = ipaddress.ip_address(bind)
    if not address.is_unspecified:
        return bind
    return "::1" if isinstance(address, ipaddress.IPv6Address) else LOOPBACK


def require_free(variable: str, port: int, host: str) -> None:
    """Raises StackError, if possible with the holder of `port`."""
    hindrance = _hindrance(port, host)
    if hindrance is None:
        return
    if hindrance.errno != errno.EADDRINUSE:
        raise StackError(
            f"{variable}={port} cannot be listened to on {host} ({hindrance.strerror}): set another"
        )
    raise StackError(
        f"{variable}={port} is in use on {host}{_holder(port)}: stop that or set {variable}"
    )


def _holder(port: int) -> str:
    """Empty where the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return ""
    return ""


# The default of `lens run`: all roles must agree on it.
CODE_PORT = 4000
