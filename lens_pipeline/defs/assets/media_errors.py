"""Translates errors of `media` into those of the pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager

from lens_pipeline import errors
from lens_pipeline.media import errors as media
from lens_pipeline.storage.retries import FetchCancelled


@contextmanager
def media_failures() -> Iterator[None]:
    """Raises DerivativeError instead of errors of `media`."""
    try:
        yield
    except media.Cancelled as error:
        raise FetchCancelled("the run was cancelled") from error
    except media.DiskFull as error:
        raise errors.DiskFull(str(error)) from error
    except media.ToolUnusable as error:
        raise errors.EncoderUnusable(str(error)) from error
    except media.FfmpegDied as error:
        raise errors.EncoderDied(str(error)) from error
    except media.ShotError as error:
        kind = errors.SourceOverLimit if error.over_limit else errors.ShotUnusable
        raise kind(str(error)) from error
    except media.MediaError as error:
        kind = errors.SourceOverLimit if error.over_limit else errors.SourceUnreadable
        raise kind(str(error)) from error
