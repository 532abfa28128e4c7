"""Services that generate: one file each. No routes, no SQL.

An adapter is a module of this package with `connect(settings, limits)`, which gives a `Provider`;
its name is what rows and the webhook's address say, and begins its settings: `NAME_api_key`.
"""

import asyncio
import importlib
import pkgutil
import threading
import time
from contextlib import aclosing

from lens_pipeline.providers.models import Limits, Provider, ProviderUnavailable
from lens_pipeline.settings import Settings

_SHARED = frozenset({"client", "models"})
NAMES = frozenset(one.name for one in pkgutil.iter_modules(__path__)) - _SHARED


# Of a link that is asked for, and after an answer that says nothing.
_RENEWAL_SECONDS, _HOLD_SECONDS = 5.0, 10.0
_renewal = threading.Lock()
# Monotonic times until which providers are left alone.
_held: dict[str, float] = {}


def configured(settings: Settings) -> frozenset[str]:
    """Providers whose tasks can be asked for."""
    return frozenset(name for name in NAMES if getattr(settings, f"{name}_api_key"))


def connect(settings: Settings, name: str, limits: Limits | None = None) -> Provider | None:
    """None: there is no such provider. Imports only the one that is asked for."""
    if name not in NAMES:
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    return module.connect(settings, limits)


def provider_of(named: str | None, settings: Settings) -> tuple[str, str | None]:
    """A provider's name and model, as a row names them: `fal/fal-ai/flux`."""
    name, _, model = (named or settings.provider).partition("/")
    return name, model or None


def fresh_url(settings: Settings, name: str, url: str) -> str | None:
    """Another link to a result of that provider's, for workers; None: there is none.

    Raises ProviderError.
    """
    provider = connect(settings, name, Limits(attempts=1, total_seconds=_RENEWAL_SECONDS))
    if provider is None:
        return None

    async def asked() -> str | None:
        async with aclosing(provider):
            return await provider.fresh_url(url)

    # One at a time, as the provider's limits are for all threads.
    with _renewal:
        wait = _held.get(name, 0.0) - time.monotonic()
        if wait > 0:
            raise ProviderUnavailable(f"{name} cannot be asked now", retry_after_seconds=wait)
        try:
            return asyncio.run(asked())
        except ProviderUnavailable as error:
            _held[name] = time.monotonic() + (error.retry_after_seconds or _HOLD_SECONDS)
            raise
