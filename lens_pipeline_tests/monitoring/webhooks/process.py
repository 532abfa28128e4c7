"""Delivers webhooks by the settings of the environment, until it is killed."""

import time

from prometheus_client import CollectorRegistry

from lens_pipeline.core.startup import load_settings
from lens_pipeline.derivatives.pipeline import current
from lens_pipeline.engine.instance import dagster_instance
from lens_pipeline.monitoring.webhooks.dispatcher import WebhookDispatcher

if __name__ == "__main__":
    with dagster_instance(load_settings()) as instance:
        WebhookDispatcher(current(), instance, CollectorRegistry()).start()
        print("started", flush=True)
        time.sleep(300)
