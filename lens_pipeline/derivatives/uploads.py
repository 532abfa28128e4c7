"""Files of people as generations: copied into the store, then a row is inserted. No arguments."""

import unicodedata
import uuid
from pathlib import Path, PurePosixPath

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.core.filenames import MOST_BYTES, safe_name
from lens_pipeline.core.ids import key_problem
from lens_pipeline.core.postgres import restart_deadline
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.errors import InvalidRow, SourceMissing, SourceRefused, SourceUnreadable
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.formats import is_video, read_head
from lens_pipeline.storage.content_types import content_type_of


def add_url(pipeline: Pipeline, url: str, user_id: str, kind: Kind) -> str:
    """Insert a finished row for the address; returns its id. Raises InvalidRow: the user."""
    require_user(pipeline, user_id)
    generation_id = str(uuid.uuid4())
    pipeline.catalog.add(generation_id, user_id, kind, url)
    return generation_id


def add_file(pipeline: Pipeline, path: Path, name: str, user_id: str, kind: Kind) -> str:
    """Copy the file into the store under its name, insert a finished row, and return its id.

    Raises as `require_user`, `copy_into_store` and `Catalog.add`.
    """
    require_user(pipeline, user_id)
    generation_id = str(uuid.uuid4())
    key = f"{user_id}/uploads/{generation_id}/{key_name(name, generation_id)}"
    copy_into_store(pipeline, path, key)
    restart_deadline()
    try:
        pipeline.catalog.add(generation_id, user_id, kind, key)
    except CatalogError:
        # The answer to a commit may have been lost.
        if not pipeline.catalog.existing(kind, [generation_id]):
            pipeline.store.delete(key)
        raise
    return generation_id


def require_user(pipeline: Pipeline, user_id: str) -> None:
    """Raises InvalidRow: the id cannot be part of a key, or stored in the host's table."""
    if problem := key_problem("user", user_id):
        raise InvalidRow(problem)
    if not pipeline.catalog.takes_user(user_id):
        raise InvalidRow(f"user {user_id!r} is no UUID, and users of this site have UUIDs")


def copy_into_store(pipeline: Pipeline, path: Path, key: str) -> None:
    """Store the file; its row must come later, as work on it begins at once.

    Raises as `_require_readable`, and DerivativeError as the store's `write`.
    """
    _require_readable(path)
    pipeline.store.write(key, path, content_type=content_type_of(key))


def kind_of_file(path: Path) -> Kind:
    """By its content. Raises SourceUnreadable: neither a photo nor a video that is supported.

    Raises as `_require_readable`.
    """
    _require_readable(path)
    try:
        return Kind.VIDEO if is_video(read_head(path)) else Kind.PHOTO
    except MediaError as error:
        raise SourceUnreadable(str(error)) from error


def _require_readable(path: Path) -> None:
    """Raises SourceMissing: there is no such file. Raises SourceRefused: it may not be read."""
    try:
        is_file = path.is_file()
        if is_file:
            path.open("rb").close()
    except OSError as error:
        raise SourceRefused(f"cannot read {path}: {error.strerror}") from error
    if not is_file:
        raise SourceMissing(f"there is no file {path}")


def key_name(name: str, generation_id: str) -> str:
    """The last part of a key; `?` and `#` would look like the end of an address."""
    composed = unicodedata.normalize("NFC", name)
    allowed = "".join(one if one.isprintable() and one not in "?#" else "_" for one in composed)
    safe = PurePosixPath(safe_name(allowed, 4 * MOST_BYTES) or generation_id)
    ending = safe.suffix.lower()
    return safe_name(safe.stem, MOST_BYTES - len(ending.encode())) + ending
