"""The command `add`: inserts a finished generation by hand."""

import uuid
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import click

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.cli.session import session
from lens_pipeline.core.ids import key_problem
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.errors import InvalidRow, SourceMissing, SourceRefused
from lens_pipeline.storage.content_types import content_type_of

_PHOTOS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic"})
_VIDEOS = frozenset({".mp4", ".mov", ".m4v", ".webm", ".mkv"})


@click.command()
@click.argument("source", metavar="FILE|URL")
@click.option("--user", required=True, help="The user it belongs to.")
@click.option(
    "--type",
    "kind",
    type=click.Choice([Kind.PHOTO.value, Kind.VIDEO.value]),
    help="What it is; by default its name says it.",
)
def add(source: str, user: str, kind: str | None) -> None:
    """Insert a finished generation and print its id: a FILE, copied into the store, or a URL."""
    with session("add") as pipeline:
        added = _add_generation(pipeline, source, user, Kind(kind) if kind else None)
    print(added)


def _add_generation(pipeline: Pipeline, source: str, user_id: str, kind: Kind | None) -> str:
    """Insert a finished row for `source`, a URL or a file; returns its id.

    Raises errors as `copy_into_store`. Raises InvalidRow: the kind is unknown, or the user's id
    cannot be part of a key.
    """
    if problem := key_problem("user", user_id):
        raise InvalidRow(problem)
    is_url = urlsplit(source).scheme in ("http", "https")
    suffix = PurePosixPath(urlsplit(source).path if is_url else source).suffix.lower()
    kind = kind or _kind_of(source, suffix)
    generation_id = str(uuid.uuid4())
    if is_url:
        asset_url = source
    else:
        asset_url = f"{user_id}/uploads/{generation_id}{suffix}"
        copy_into_store(pipeline, Path.cwd() / source, asset_url)
    pipeline.catalog.add(generation_id, user_id, kind, asset_url)
    return generation_id


def copy_into_store(pipeline: Pipeline, path: Path, key: str) -> None:
    """Store the file; its row must come later, as work on it begins at once.

    Raises SourceMissing: there is no such file. Raises SourceRefused: this user may not read it.
    Raises DerivativeError as the store's `write`.
    """
    try:
        is_file = path.is_file()
        if is_file:
            path.open("rb").close()
    except OSError as error:
        raise SourceRefused(f"cannot read {path}: {error.strerror}") from error
    if not is_file:
        raise SourceMissing(f"there is no file {path}")
    pipeline.store.write(key, path, content_type=content_type_of(key))


def _kind_of(source: str, suffix: str) -> Kind:
    if suffix in _PHOTOS:
        return Kind.PHOTO
    if suffix in _VIDEOS:
        return Kind.VIDEO
    problem = "its name does not say whether it is a photo or a video: use --type"
    raise InvalidRow(f"{source}: {problem}")
