"""Why the application's tables cannot be used."""

from sqlalchemy.exc import DBAPIError

from lens_pipeline.errors import LensError

_INSUFFICIENT_PRIVILEGE = "42501"


class CatalogError(LensError):
    """The application's database cannot be used; the message says what to do."""


class NoRightToWrite(CatalogError):
    """Our role may not change generations; the message says what to grant."""


def is_refusal(error: DBAPIError) -> bool:
    """Whether our role lacks a right, or a policy keeps it from the rows."""
    return getattr(error.orig, "pgcode", None) == _INSUFFICIENT_PRIVILEGE


def is_by_policy(refusal: DBAPIError) -> bool:
    """Whether that was row-level security."""
    return "row-level security" in str(refusal.orig)
