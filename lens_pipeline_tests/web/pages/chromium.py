"""The machine's Chromium."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Nothing but what the tests ask for: no sandbox, since it needs rights that containers lack.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


def find() -> str | None:
    """The path of its executable."""
    return next(filter(None, map(shutil.which, NAMES)), None)
