"""The shots of a master, resolved to files. Pure: rows in, shots out."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lens_pipeline.catalog.rows import FINISHED, Kind, Shot, ShotProblem

# Rows come from outside and need a limit.
MOST_SHOTS = 1000


@dataclass(frozen=True, slots=True)
class Asset:
    project_id: str
    generation_id: str | None
    asset_url: str | None
    created_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class ShotGeneration:
    """The generation of an asset, finished or not."""

    kind: str | None
    """None: of a type that is not ours."""
    status: str
    asset_url: str | None
    changed_at: dt.datetime | None


class Entry(NamedTuple):
    """An asset of `shots_config`: its id, or an object with `asset_id` and `quiet`."""

    asset_id: str
    quiet: bool = False


def read_config(config: object) -> tuple[list[Entry], str | None]:
    """The assets of a `shots_config`, or none and the problem."""
    if isinstance(config, str):  # a column of text, or JSON within JSON
        try:
            config = json.loads(config)
        except (ValueError, RecursionError):
            return [], "shots_config is no JSON, or too deep"
    if not isinstance(config, list):
        return [], f"shots_config is no list of asset ids but {_quoted(config)}"
    entries: list[Entry] = []
    for place, value in enumerate(config, 1):
        entry = _entry(value)
        if entry is None:
            return [], f"shot {place} of shots_config is no asset id but {_quoted(value)}"
        entries.append(entry)
    if not entries:
        return [], "shots_config names no shot"
    if len(entries) > MOST_SHOTS:
        return [], f"shots_config has {len(entries)} shots, over the limit of {MOST_SHOTS}"
    return entries, None


def _entry(value: object) -> Entry | None:
    """None: it is none."""
    fields: dict[str, object] = value if isinstance(value, dict) else {"asset_id": value}
    name, quiet = fields.get("asset_id"), fields.get("quiet", False)
    if isinstance(name, str) and name and isinstance(quiet, bool):
        return Entry(name, quiet)
    return None


def resolve(
    project_id: str,
    entries: Sequence[Entry],
    assets: Mapping[str, Asset],
    generations: Mapping[str, ShotGeneration],
) -> tuple[Shot, ...]:
    """The shots of a master, in order."""
    return tuple(
        replace(_shot(project_id, name, assets.get(name), generations), quiet=quiet)
        for name, quiet in entries
    )


def _shot(
    project_id: str, name: str, asset: Asset | None, generations: Mapping[str, ShotGeneration]
) -> Shot:
    if asset is None:
        return Shot(name, problem=f"shot {name!r}: no asset has this id")
    if asset.project_id != project_id:
        return Shot(name, problem=f"shot {name!r} belongs to another project")
    if asset.generation_id is not None:
        return _generated(name, asset.generation_id, generations.get(asset.generation_id))
    if not asset.asset_url:
        problem = f"shot {name!r} has neither a generation nor an asset_url"
        return Shot(name, problem=problem, problem_code=ShotProblem.EMPTY)
    return Shot(name, source=asset.asset_url, finished_at=asset.created_at)


def _generated(name: str, generation_id: str, generation: ShotGeneration | None) -> Shot:
    which = f"generation {generation_id!r}"
    if generation is None:
        problem = f"shot {name!r}: its {which} does not exist"
        return Shot(name, problem=problem, problem_code=ShotProblem.NO_GENERATION)
    if generation.kind != Kind.VIDEO:
        what = f"a {generation.kind}" if generation.kind else "of another type"
        problem = f"shot {name!r}: its {which} is {what}, no video"
        return Shot(name, problem=problem, problem_code=ShotProblem.NO_VIDEO)
    if generation.status not in FINISHED:
        return Shot(name, waits=f"shot {name!r}: its {which} has status {generation.status!r}")
    if not generation.asset_url:
        problem = f"shot {name!r}: its {which} has no asset_url"
        return Shot(name, problem=problem, problem_code=ShotProblem.NO_FILE)
    return Shot(
        name,
        source=generation.asset_url,
        finished_at=generation.changed_at,
        generation_id=generation_id,
    )


def _quoted(value: object) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "a deeply nested one"
    return text if len(text) <= 60 else text[:57] + "..."
