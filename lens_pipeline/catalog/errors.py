"""Errors of the application's database."""

from lens_pipeline.errors import LensError


class CatalogError(LensError):
    """The application's database cannot be used; the message says what to do."""


class RowInUse(CatalogError):
    """Other rows of the application refer to this one."""


class NoRightToWrite(CatalogError):
    """The message says what to grant."""
