"""What the embedded servers share."""

import importlib.util
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import write_private
from lens_pipeline.core.ports import free_port, is_free

# Servers stop last.
PRIORITY = 10
READY_SECONDS = 2
# After a crash a server replays its log, at most a gigabyte.
RECOVERY_SECONDS = 120


@dataclass(frozen=True)
class Connection:
    """Kept across restarts."""

    port: int
    passwords: Mapping[str, str]

    @classmethod
    def load(cls, directory: Path, users: tuple[str, ...]) -> "Connection":
        """Kept in `directory`, or new; with another port if that is taken."""
        file = directory / "connection.json"
        if file.exists():
            kept = cls(**json.loads(file.read_text(encoding="utf-8")))
            if is_free(kept.port):
                return kept
            connection = replace(kept, port=free_port())
        else:
            connection = cls(free_port(), {user: secrets.token_urlsafe(24) for user in users})
        write_private(file, json.dumps(asdict(connection)))
        return connection


def package_directory(name: str, variable: str) -> Path:
    """Of an installed wheel, without its import. Raises StackError."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(
            f"{variable} is not set and the embedded servers are not installed:"
            " set it, or pip install 'lens-pipeline[embedded]'"
        )
    return Path(spec.submodule_search_locations[0])
