"""Renders pictures for `worker`."""

from pathlib import Path
from typing import Any

from lens_pipeline.media.images import render_preview
from lens_pipeline.media.models import Picture, PosterSpec, PreviewSpec
from lens_pipeline.media.posters import render_poster
from lens_pipeline.media.sandbox import protocol


def answer(request: protocol.Header, *_: object) -> tuple[protocol.Header, bytes]:
    """Raises MediaError."""
    (source,) = request["paths"]
    picture, times = _render(request["kind"], Path(source), request["spec"])
    names = ("width", "height", "source_width", "source_height", "thumbhash")
    header = {name: getattr(picture, name) for name in names}
    header["webp_bytes"], header["inline_bytes"] = len(picture.webp), len(picture.inline)
    header["sizes"] = [
        {"edge": size.edge, "width": size.width, "height": size.height, "bytes": len(size.webp)}
        for size in picture.sizes
    ]
    body = b"".join([picture.webp, picture.inline, *(size.webp for size in picture.sizes)])
    return header | times, body


def _render(kind: str, source: Path, spec: dict[str, Any]) -> tuple[Picture, dict[str, float]]:
    if kind == "preview":
        return render_preview(source, PreviewSpec(**spec)), {}
    poster = render_poster(source, PosterSpec(**spec))
    names = ("duration_seconds", "poster_at_seconds")
    return poster.picture, {name: getattr(poster, name) for name in names}
