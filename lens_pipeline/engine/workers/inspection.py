"""Which Celery workers live."""

from celery import Celery

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.engine.workers.app import celery_config, queue_name
from lens_pipeline.engine.workers.broker import BrokerError, errors_of

# A worker answers at once, also while its children work.
_ANSWER_SECONDS = 1.0


def alive_workers(broker_url: str) -> dict[str, int]:
    """Count workers by queue; takes a second. Raises BrokerError."""
    app = Celery(broker=broker_url, set_as_current=False)
    config = celery_config(Endpoints("", "", broker_url, ""))
    config["broker_connection_timeout"] = _ANSWER_SECONDS
    config["broker_transport_options"] |= {
        "socket_connect_timeout": _ANSWER_SECONDS,
        "socket_timeout": 2 * _ANSWER_SECONDS,
    }
    app.config_from_object(config)
    with app, app.connection_for_write() as connection:
        try:
            answers = app.control.inspect(timeout=_ANSWER_SECONDS).active_queues() or {}
        except errors_of(connection) as error:
            raise BrokerError(f"{type(error).__name__}: {error}") from error
    found: dict[str, int] = dict.fromkeys(QUEUES, 0)
    for queue in (queue for queues in answers.values() for queue in queues):
        name = queue_name(queue["name"])
        if name in found:
            found[name] += 1
    return found
