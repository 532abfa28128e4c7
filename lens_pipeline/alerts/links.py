"""Addresses that people can open from a message."""

from urllib.parse import quote

from lens_pipeline.core.ports import reachable_host
from lens_pipeline.settings import Settings


def dagster(settings: Settings, path: str) -> str:
    """A path of the Dagster UI, by LENS_DAGSTER_PUBLIC_URL, else as this machine reaches it."""
    return _joined(settings.dagster_public_url, settings, settings.dagster_port, path)


def pages(settings: Settings, path: str) -> str:
    """A path of our own pages, by LENS_PUBLIC_URL, else as this machine reaches it."""
    return _joined(settings.public_url, settings, settings.api_port, path)


def partition(settings: Settings, asset: str, key: str) -> str:
    """One partition of an asset in the Dagster UI."""
    return dagster(settings, f"assets/{asset}?view=partitions&partition={quote(key, safe='')}")


def _joined(public: str | None, settings: Settings, port: int, path: str) -> str:
    host = reachable_host(settings.bind)
    base = public or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return f"{base.rstrip('/')}/{path}"
