"""Services that generate: one file each. No routes, no SQL.

An adapter is a module of this package with a function `connect(settings)` that gives a `Provider`;
its name is what rows and the webhook's address say.
"""

import asyncio
import importlib
import logging
import pkgutil
from contextlib import aclosing

from lens_pipeline.providers.models import Provider, ProviderError, ProviderUnset
from lens_pipeline.settings import Settings

logger = logging.getLogger(__name__)

_SHARED = frozenset({"client", "models"})
NAMES = frozenset(one.name for one in pkgutil.iter_modules(__path__)) - _SHARED


def connect(settings: Settings, name: str) -> Provider | None:
    """None: there is no such provider. Imports only the one that is asked for."""
    if name not in NAMES:
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    return module.connect(settings)


def provider_of(named: str | None, settings: Settings) -> tuple[str, str | None]:
    """A provider's name and model, as a row names them: `fal/fal-ai/flux`."""
    name, _, model = (named or settings.provider).partition("/")
    return name, model or None


def fresh_url(settings: Settings, url: str) -> str | None:
    """Another link to a result, for workers; None: its provider gives none."""
    provider = connect(settings, settings.provider)
    if provider is None:
        return None

    async def asked() -> str | None:
        async with aclosing(provider):
            return await provider.fresh_url(url)

    try:
        return asyncio.run(asked())
    except ProviderUnset:
        return None
    except ProviderError as error:
        logger.warning("no other link for a result: %s", error)
        return None
