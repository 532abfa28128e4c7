"""How Dagster's processes are told to end."""

import signal


def hear() -> None:
    """Let SIGINT, and with it SIGTERM, end this process in order, however it was begun.

    Whatever a script begins in its background (`nohup lens up &`) ignores SIGINT, and Dagster
    takes its way to handle SIGTERM from that: only a kill would end it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
