"""Whether the broker takes us."""

from typing import Any
from urllib.parse import urlsplit

from amqp.basic_message import Message
from amqp.exceptions import AccessRefused, NotAllowed
from kombu.connection import Connection
from kombu.exceptions import KombuError

from lens_pipeline.errors import LensError


class BrokerError(LensError):
    """It does not answer; the message says why, without secrets."""


class BrokerRefusal(BrokerError):
    """It answers (RabbitMQ), and does not know the user, the password or the virtual host."""


class BrokerFull(BrokerError):
    """It answers (RabbitMQ), and lets nobody send anything."""


def reach(url: str, seconds: int) -> None:
    """Connect and authenticate the way the workers do; no step takes longer than `seconds`.

    Raises BrokerError: it does not take us. Raises ValueError: `url` is not understood.
    """
    is_redis = urlsplit(url).scheme.startswith("redis")
    options = _redis_options(seconds) if is_redis else _amqp_options(seconds)
    with Connection(url, connect_timeout=seconds, transport_options=options) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            # Redis is first asked something, and told the password, when a channel opens.
            channel = connection.channel()
            if not is_redis:
                _try_sending(connection, channel, seconds)
            channel.close()
        except (AccessRefused, NotAllowed) as error:
            raise BrokerRefusal(error.reply_text) from error
        except errors_of(connection) as error:
            raise BrokerError(_first_line(error)) from error


def errors_of(connection: Connection) -> tuple[type[Exception], ...]:
    """What a connection of this transport raises when the broker does not do what it is asked."""
    return (*connection.connection_errors, *connection.channel_errors, KombuError, OSError)


def _redis_options(seconds: int) -> dict[str, Any]:
    return {"socket_connect_timeout": seconds, "socket_timeout": seconds}


def _amqp_options(seconds: int) -> dict[str, Any]:
    return {"read_timeout": seconds, "write_timeout": seconds, "confirm_publish": True}


def _try_sending(connection: Connection, channel: Any, seconds: int) -> None:
    """Send what reaches no queue. Raises BrokerFull: RabbitMQ does not confirm it."""
    try:
        # When it is full it takes one message of each connection, and then reads nothing more.
        for _ in range(2):
            channel.basic_publish(
                Message(), routing_key="lens.nowhere", confirm_timeout=seconds / 2
            )
    except TimeoutError as error:
        # Without saying good-bye, which it would not read either.
        connection.collect()
        raise BrokerFull("it takes no messages: it has no memory or disk left") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
