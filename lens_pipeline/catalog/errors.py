"""Errors of the application's database."""

from collections.abc import Iterable

from lens_pipeline.errors import LensError


class CatalogError(LensError):
    """The application's database cannot be used; the message says what to do."""


class MastersOff(CatalogError):
    """The site has no tables of masters, which it needs for them alone."""

    @classmethod
    def of(cls, absent: Iterable[str]) -> "MastersOff":
        return cls(
            f"masters are off: there is no table {', '.join(absent)};"
            " `lens migrate --masters` creates what they need"
        )


class RowInUse(CatalogError):
    """Other rows of the application refer to this one."""


class NoRightToWrite(CatalogError):
    """The message says what to grant."""
