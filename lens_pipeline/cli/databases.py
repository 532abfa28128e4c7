"""`python -m` this: databases for a command of Dagster, until standard input ends."""

import sys

from lens_pipeline.cli.session import session
from lens_pipeline.errors import LensError


def main() -> None:
    """Print `ready`, or the one line that says why not."""
    try:
        with session("databases"):
            print("ready", flush=True)
            sys.stdin.read()
    except LensError as error:
        print(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
