"""`python -m lens_pipeline_tests.chaos`: break a running pipeline at random, then judge it.

Exit status 0: every rule held. 1: some did not; the logs stay.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lens_pipeline_tests.chaos.run import Plan, run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lens_pipeline_tests.chaos", description=__doc__
    )
    parser.add_argument("--seed", type=int, default=1, help="which bad day (default: 1)")
    parser.add_argument("--minutes", type=float, default=20, help="how long (default: 20)")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="lens-chaos-"))
    began = time.monotonic()
    diary = (directory / "diary.log").open("w", encoding="utf-8")

    def say(line: str) -> None:
        told = f"{time.monotonic() - began:7.1f} {line}"
        print(told, flush=True)
        print(told, file=diary, flush=True)

    say(f"seed {arguments.seed}, {arguments.minutes:g} minutes, in {directory}")
    try:
        verdict = run(Plan(arguments.seed, arguments.minutes), directory, say)
    except KeyboardInterrupt:
        sys.exit(f"interrupted; what there was is in {directory}")
    print(json.dumps(verdict.figures, indent=2))
    for violation in verdict.violations:
        say(f"VIOLATED: {violation}")
    diary.close()
    if verdict.violations:
        sys.exit(f"{len(verdict.violations)} violations; the logs are in {directory}")
    shutil.rmtree(directory)
    print("every rule held")


if __name__ == "__main__":
    main()
