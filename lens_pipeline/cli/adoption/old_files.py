"""Finds files by the paths that an older system wrote, perhaps on another machine."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from lens_pipeline.errors import InvalidRow, SourceMissing


class OldFiles:
    def __init__(self, directory: Path | None, rows: Iterable[Sequence[str]]) -> None:
        """`rows`: the paths of each that has a file."""
        self._directory = directory
        self._named: dict[Path, set[str]] = defaultdict(set)
        for paths in rows:
            with suppress(SourceMissing):
                file, written = self._first(paths)
                self._named[file.resolve()].add(written)

    def find(self, paths: Sequence[str]) -> Path:
        """By the first of `paths` that leads to one.

        Raises SourceMissing; InvalidRow: another path leads to the same file.
        """
        file, written = self._first(paths)
        others = self._named[file.resolve()] - {written}
        if others:
            raise InvalidRow(f"{file} is all that is found for {written} and for {min(others)}")
        return file

    def _first(self, paths: Sequence[str]) -> tuple[Path, str]:
        """The file, and the path that leads to it. Raises SourceMissing."""
        if not paths:
            raise SourceMissing("it names no file")
        for written in paths:
            file = next(filter(_is_file, self._places(written)), None)
            if file is not None:
                return file, written
        raise SourceMissing(f"there is no file {' or '.join(paths)}")

    def _places(self, written: str) -> Iterator[Path]:
        """Below the directory by ever shorter ends of the path, then as written."""
        if self._directory is not None:
            parts = PurePosixPath(written.replace("\\", "/")).parts
            names = [part for part in parts if part not in ("/", "//", "..")]
            yield from (self._directory.joinpath(*names[at:]) for at in range(len(names)))
        yield Path(written)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long, or a folder may not be read
        return False
