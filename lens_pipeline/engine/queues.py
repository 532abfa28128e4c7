"""The Celery queues, and which of them a run belongs to."""

from collections.abc import Iterable

QUEUE_TAG = "dagster-celery/queue"

PREVIEWS = "previews"
# Encodes take minutes: they must never delay a preview.
MASTERS = "masters"
QUEUES = (PREVIEWS, MASTERS)

_BY_ASSET = {
    "preview": PREVIEWS,
    "poster": PREVIEWS,
    "checked_shot": MASTERS,
    "master_video": MASTERS,
    "master_poster": MASTERS,
    "scaled_video": MASTERS,
    "daily_report": MASTERS,
}


def queue_of(assets: Iterable[str]) -> str:
    """The queue for a run of `assets`; runs without assets of ours go with the previews."""
    for asset in assets:
        if asset in _BY_ASSET:
            return _BY_ASSET[asset]
    return PREVIEWS
