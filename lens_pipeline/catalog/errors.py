"""Why the application's tables cannot be used."""

from lens_pipeline.failures import LensError


class CatalogError(LensError):
    """The application's database cannot be used; the message says what to do."""


class NoRightToWrite(CatalogError):
    """Our role may not change generations; the message says what to grant."""
