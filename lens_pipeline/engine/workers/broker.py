"""Whether the broker takes messages."""

from typing import Any
from urllib.parse import urlsplit

from amqp.basic_message import Message
from amqp.exceptions import AccessRefused, NotAllowed
from kombu.connection import Connection
from kombu.exceptions import KombuError

from lens_pipeline.errors import LensError, first_line


class BrokerError(LensError):
    """The broker does not answer. The message has no secrets."""


class BrokerRefusal(BrokerError):
    """RabbitMQ does not know the user, the password or the virtual host."""


class BrokerFull(BrokerError):
    """RabbitMQ answers and takes no message."""


def reach(url: str, seconds: int) -> None:
    """Connect as the workers do; each step takes at most `seconds`.

    Raises BrokerError. Raises ValueError: `url` is not understood.
    """
    is_redis = urlsplit(url).scheme.startswith("redis")
    options = {"socket_connect_timeout": seconds, "socket_timeout": seconds}
    if not is_redis:
        options = {"read_timeout": seconds, "write_timeout": seconds, "confirm_publish": True}
    with Connection(url, connect_timeout=seconds, transport_options=options) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            # Redis gets the password when a channel opens.
            channel = connection.channel()
            if not is_redis:
                _try_sending(connection, channel, seconds)
            channel.close()
        except (AccessRefused, NotAllowed) as error:
            raise BrokerRefusal(error.reply_text) from error
        except errors_of(connection) as error:
            raise BrokerError(first_line(error)) from error


def errors_of(connection: Connection) -> tuple[type[Exception], ...]:
    return (*connection.connection_errors, *connection.channel_errors, KombuError, OSError)


def _try_sending(connection: Connection, channel: Any, seconds: int) -> None:
    """Send to no queue. Raises BrokerFull: RabbitMQ does not confirm it."""
    try:
        # A full RabbitMQ takes one message of each connection.
        for _ in range(2):
            channel.basic_publish(
                Message(), routing_key="lens.nowhere", confirm_timeout=seconds / 2
            )
    except TimeoutError as error:
        # A full RabbitMQ would not read a proper close.
        connection.collect()
        raise BrokerFull("it takes no messages: it has no memory or disk left") from error
