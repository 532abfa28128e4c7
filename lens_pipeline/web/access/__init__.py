"""Who asks, what they may see, and how they show it: tokens, logins, signed links."""

from lens_pipeline.web.auth.caller import Caller, CallerDep, KnownUntilDep, MediaCallerDep

__all__ = ["Caller", "CallerDep", "KnownUntilDep", "MediaCallerDep"]
