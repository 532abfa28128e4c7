"""Signs deliveries as the provider does."""

import time

from lens_pipeline.providers.kie import signature
from lens_pipeline_tests.providers.provider_server import WEBHOOK_KEY


def headers(task_id: str, at: float | str | None = None, key: str = WEBHOOK_KEY) -> dict[str, str]:
    """Of a delivery at a time in seconds, by default now."""
    timestamp = at if isinstance(at, str) else str(int(time.time() if at is None else at))
    return {
        "X-Webhook-Timestamp": timestamp,
        "X-Webhook-Signature": signature(key, task_id, timestamp),
    }
