"""Finds files by the paths that an older system wrote, perhaps on another machine."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from lens_pipeline.errors import DerivativeError, InvalidRow, SourceMissing


class OldFiles:
    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._found: dict[Path, str] = {}

    def find(self, paths: Sequence[str]) -> Path:
        """By the first of `paths` that leads to one.

        Raises SourceMissing; InvalidRow: another path has led to the same file.
        """
        if not paths:
            raise SourceMissing("it names no file")
        for written in paths:
            file = next(filter(_is_file, self._places(written)), None)
            if file is None:
                continue
            other = self._found.setdefault(file.resolve(), written)
            if other != written:
                raise InvalidRow(f"{file} is all that is found for {written} and for {other}")
            return file
        raise SourceMissing(f"there is no file {' or '.join(paths)}")

    def claim(self, paths: Sequence[str]) -> None:
        """Of a row that is there already: no other gets its file, if it still is where it was."""
        with suppress(DerivativeError):
            self.find(paths)

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
