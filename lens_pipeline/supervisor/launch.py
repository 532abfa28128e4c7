"""Becomes one supervised program: `launch.py NAME`, run by supervisord in `$LENS_HOME`.

A private file has its arguments and environment, since supervisord's configuration interprets `%`,
quotes, `;` and line breaks. Runs without site-packages.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    program = json.loads(Path("run/programs.json").read_text(encoding="utf-8"))[sys.argv[1]]
    os.chdir(program["cwd"])
    os.execvpe(program["argv"][0], program["argv"], {**os.environ, **program["environment"]})


if __name__ == "__main__":
    main()
