"""Renders pictures in sandboxed media processes, which are kept from run to run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

from lens_pipeline import errors
from lens_pipeline.core.files import scratch_directory
from lens_pipeline.derivatives.registry import WEBP_EFFORT
from lens_pipeline.media import errors as media
from lens_pipeline.media.models import Picture, PosterSpec, PreviewSpec
from lens_pipeline.media.sandbox.pool import RENDERS, Sandbox
from lens_pipeline.settings import Settings
from lens_pipeline.storage.retries import FetchCancelled


class Renderer(Protocol):
    def render(self, source: Path) -> tuple[Picture, dict[str, float]]:
        """The picture and more metadata. Raises SourceUnreadable, SourceOverLimit."""
        ...

    def interrupt(self) -> None:
        """Make every `render()` fail at once."""


class PreviewRenderer:
    """Previews of photos; `edge` and `sizes` are the longest, in pixels."""

    def __init__(self, settings: Settings, edge: int, sizes: Sequence[int] = ()) -> None:
        self._sandbox = media_sandbox(settings)
        self._spec = PreviewSpec(
            edge, settings.preview_quality, WEBP_EFFORT, settings.max_pixels, sizes
        )

    def render(self, source: Path) -> tuple[Picture, dict[str, float]]:
        with media_failures():
            return self._sandbox.preview(source, self._spec), {}

    def interrupt(self) -> None:
        _end(self._sandbox)


class PosterRenderer:
    """Posters of videos; `edge` and `sizes` are the longest, in pixels."""

    def __init__(self, settings: Settings, edge: int, sizes: Sequence[int] = ()) -> None:
        self._sandbox = media_sandbox(settings)
        self._spec = PosterSpec(
            edge, settings.preview_quality, WEBP_EFFORT, settings.max_pixels, sizes
        )

    def render(self, source: Path) -> tuple[Picture, dict[str, float]]:
        with media_failures():
            poster = self._sandbox.poster(source, self._spec)
        return poster.picture, {
            "duration_seconds": round(poster.duration_seconds, 3),
            "poster_at_seconds": round(poster.poster_at_seconds, 3),
        }

    def interrupt(self) -> None:
        _end(self._sandbox)


# The sandboxes of this process and their directories.
_opened = ExitStack()


@cache
def media_sandbox(settings: Settings, module: str = RENDERS) -> Sandbox:
    """Shared in this process: a start takes longer than most pictures."""
    return _opened.enter_context(
        Sandbox(
            workers=settings.threads if module == RENDERS else 1,
            timeout_seconds=settings.render_timeout_seconds,
            memory_mib=settings.render_memory_mib,
            directory=_opened.enter_context(scratch_directory(settings.resolved_home / "sandbox")),
            module=module,
        )
    )


def _end(sandbox: Sandbox) -> None:
    """The next run starts new media processes."""
    media_sandbox.cache_clear()
    sandbox.close()
    _opened.close()


@contextmanager
def media_failures() -> Iterator[None]:
    """Raises DerivativeError instead of errors of `media`."""
    try:
        yield
    except media.Cancelled as error:
        raise FetchCancelled("the run was cancelled") from error
    except media.DiskFull as error:
        raise errors.DiskFull(str(error)) from error
    except (media.ToolUnusable, media.SandboxUnavailable) as error:
        raise errors.EncoderUnusable(str(error)) from error
    except media.SignerUnusable as error:
        raise errors.SigningUnavailable(str(error)) from error
    except media.MediaProcessDied as error:
        raise errors.EncoderDied(str(error)) from error
    except media.ShotError as error:
        kind = errors.SourceOverLimit if error.over_limit else errors.ShotUnusable
        raise kind(str(error)) from error
    except media.MediaError as error:
        kind = errors.SourceOverLimit if error.over_limit else errors.SourceUnreadable
        raise kind(str(error)) from error
