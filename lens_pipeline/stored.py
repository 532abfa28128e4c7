"""Which derivatives lie in the store."""

from collections import defaultdict
from collections.abc import Iterable

from lens_pipeline.derivatives import Derivative
from lens_pipeline.gaps import Assessed
from lens_pipeline.pipeline import Pipeline
from lens_pipeline.store import ObjectInfo


def stored_objects(
    pipeline: Pipeline, derivative: Derivative, rows: Iterable[Assessed]
) -> dict[str, ObjectInfo]:
    """The stored objects of these rows, by id; one that holds nothing is none.

    Listed by folder: on S3 a page of 1,000 keys costs as much as asking for one.
    """
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for assessed in rows:
        key = derivative.object_key(assessed.row, assessed.revision)
        folders[key.rpartition("/")[0] + "/"][key] = assessed.row.id
    return {
        ids[info.key]: info
        for folder, ids in folders.items()
        for info in pipeline.store.list(folder)
        if info.key in ids and info.bytes > 0
    }
