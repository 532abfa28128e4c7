"""The command `add`: inserts finished generations by hand."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from uuid import uuid4

import click

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.cli.progress import meter
from lens_pipeline.cli.session import session
from lens_pipeline.core.ids import key_problem
from lens_pipeline.core.startup import say
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.uploads import add_file, add_url, kind_of_file, require_user
from lens_pipeline.errors import DerivativeError, InvalidRow, SourceUnreadable

_PHOTOS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic"})
_VIDEOS = frozenset({".mp4", ".mov", ".m4v", ".webm", ".mkv"})


@click.command()
@click.argument("sources", metavar="FILE|FOLDER|URL...", nargs=-1, required=True)
@click.option("--user", default="me", show_default=True, help="The user they belong to.")
@click.option(
    "--type",
    "kind",
    type=click.Choice([Kind.PHOTO.value, Kind.VIDEO.value]),
    help="What they are; by default their content or name says it.",
)
@click.option(
    "--project", metavar="ID", help="The videos become shots of this project, for its masters."
)
def add(sources: tuple[str, ...], user: str, kind: str | None, project: str | None) -> None:
    """Insert finished generations and print their ids: files, copied into the store, or URLs.

    Of a folder, its photos and videos; others are named and passed over. What fails is named too,
    and does not stop the rest: the exit status is then 1.
    """
    if project is not None and (problem := key_problem("project", project)):
        raise InvalidRow(problem)
    wanted = Kind(kind) if kind else None
    added: list[tuple[str, str]] = []
    has_failed = False
    with session("add") as pipeline:
        try:
            require_user(pipeline, user)
        except InvalidRow as error:
            raise InvalidRow(f"{error}: name one with --user") from None
        found = [one for source in sources for one in _files(source)]
        try:
            with meter("add", len(found)) if len(found) > 1 else nullcontext() as progress:
                for number, source in enumerate(found, 1):
                    try:
                        added.append((_add(pipeline, source, user, wanted, project), source))
                    except DerivativeError as error:
                        has_failed = True
                        say(f"lens: {source}: {error}")
                    if progress is not None:
                        progress.show(number)
        finally:
            _print(added, alone=list(sources) == found)
    if not found:
        say("lens: there is no photo or video to add")
    if has_failed or not found:
        sys.exit(1)


def _print(added: Sequence[tuple[str, str]], *, alone: bool) -> None:
    is_one = alone and len(added) == 1
    for generation_id, source in added:
        print(generation_id if is_one else f"{generation_id}  {PurePosixPath(source).name}")


def _files(source: str) -> Iterator[str]:
    """The source itself, or the photos and videos of the folder that it is, by name."""
    paths = None if _is_url(source) else _entries(source)
    if paths is None:
        yield source
    for path in paths or ():
        if path.is_dir():
            say(f"lens: passed over {path}: a folder")
            continue
        try:
            kind_of_file(path)
        except DerivativeError as error:
            say(f"lens: passed over {path}: {error}")
        else:
            yield str(path)


def _entries(folder: str) -> list[Path] | None:
    """None: it is no folder, or cannot be read."""
    try:
        return sorted(Path(folder).iterdir())
    except OSError:
        return None


def _add(
    pipeline: Pipeline, source: str, user_id: str, kind: Kind | None, project_id: str | None
) -> str:
    """Raises errors as `add_file`. Raises InvalidRow: the kind is unknown."""
    kind = kind or _kind_of(source)
    if _is_url(source):
        generation_id = add_url(pipeline, source, user_id, kind)
    else:
        path = Path.cwd() / source
        generation_id = add_file(pipeline, path, path.name, user_id, kind)
    if project_id and kind is Kind.VIDEO:
        shot = {"generation_id": generation_id}
        with pipeline.catalog.inserting(Kind.SHOT, project_id, {str(uuid4()): shot}):
            pass
    return generation_id


def _is_url(source: str) -> bool:
    return urlsplit(source).scheme in ("http", "https")


def _kind_of(source: str) -> Kind:
    """By content, else by name. Raises SourceMissing, InvalidRow."""
    if not _is_url(source):
        # What cannot be read is told when it is copied.
        with suppress(SourceUnreadable):
            return kind_of_file(Path.cwd() / source)
    path = urlsplit(source).path if _is_url(source) else source
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _PHOTOS:
        return Kind.PHOTO
    if suffix in _VIDEOS:
        return Kind.VIDEO
    raise InvalidRow("its name does not say whether it is a photo or a video: use --type")
