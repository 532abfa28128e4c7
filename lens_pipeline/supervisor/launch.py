"""Becomes one supervised program: `launch.py NAME`, without site-packages.

Arguments come from a private file: supervisord would interpret `%`, quotes and `;`.
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
