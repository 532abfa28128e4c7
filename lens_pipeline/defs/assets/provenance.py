"""What files say of how they came to be: in XMP, and in content credentials if they are signed."""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import dagster as dg

from lens_pipeline import VERSION
from lens_pipeline.catalog.rows import Row, Shot
from lens_pipeline.defs.assets import renderers
from lens_pipeline.defs.assets.renderers import media_failures
from lens_pipeline.derivatives.provenance import source_type
from lens_pipeline.errors import (
    EncoderUnusable,
    SigningUnavailable,
    SourceOverLimit,
    SourceUnreadable,
)
from lens_pipeline.media.credentials import (
    INSTALL,
    NO_HASH,
    has_credentials,
    load_signer,
    mp4_box,
    sign_mp4,
)
from lens_pipeline.media.errors import MediaError, MediaProcessDied, SandboxUnavailable
from lens_pipeline.media.formats import file_extension, read_head
from lens_pipeline.media.models import Credentials, Ingredient, Manifest, Signer
from lens_pipeline.media.provenance import mark_mp4, marked_webp
from lens_pipeline.media.sandbox.pool import CREDENTIALS, Sandbox
from lens_pipeline.settings import Settings
from lens_pipeline.storage.content_types import CONTENT_TYPES, UNKNOWN_TYPE

logger = logging.getLogger(__name__)

# By how much credentials make a picture larger at the most, and an MP4, if they have those of what
# it is made from as well.
_MOST_PICTURE_BYTES, _MOST_MP4_SHARE = 64 * 1024, 0.02
# What IPTC calls a film of which nothing else is known.
_COMPOSED = "composite"

Metadata = dict[str, dg.MetadataValue]


class Provenance:
    """Of a batch; thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def facts(self, source: Ingredient) -> Metadata:
        """What the credentials of an original say, as metadata; empty if it has none."""
        if source.file is None:
            return {}
        with media_failures():
            try:
                found = self._read(source.file)
            except (MediaError, MediaProcessDied, SandboxUnavailable) as error:
                # The picture is made all the same.
                found = Credentials.clipped("unreadable", problems=[str(error)])
        facts = {name: value for name, value in asdict(found).items() if value}
        return {"c2pa": dg.MetadataValue.json(facts)}

    def source(self, row: Row | Shot, title: str, file: Path, sha256: str) -> Ingredient:
        """A file that another is made from."""
        return Ingredient(
            title=title,
            media_type=CONTENT_TYPES.get(file_extension(read_head(file)) or "", UNKNOWN_TYPE),
            sha256=sha256,
            source_type=source_type(row, self._settings),
            file=file if has_credentials(file) else None,
        )

    def webp(self, row: Row, webp: bytes, key: str, source: Ingredient) -> bytes:
        """The picture with its provenance. Raises SigningUnavailable."""
        marked = marked_webp(webp, source_type(row, self._settings))
        if self._signer is None:
            return marked
        manifest = _manifest(key, "image/webp", ["c2pa.transcoded"], [source])
        most_bytes = len(marked) + _MOST_PICTURE_BYTES
        signed, _ = self._signed(self._signer, manifest, marked, most_bytes)
        return signed

    def complete_mp4(
        self,
        row: Row,
        file: Path,
        key: str,
        sources: Callable[[], Sequence[Ingredient]],
        actions: Sequence[str] = (),
        most_bytes: int | None = None,
    ) -> None:
        """Add its provenance: without `actions`, it is composed of its sources, else derived.

        `sources` are asked for if it is signed. `most_bytes`: of the whole file. Raises
        SigningUnavailable, DiskFull.
        """
        told = source_type(row, self._settings)
        with media_failures():
            mark_mp4(file, told)
        if self._signer is None:
            return
        manifest = _manifest(key, "video/mp4", actions, sources())
        if not actions:
            manifest = replace(manifest, source_type=told or _COMPOSED)
        size = file.stat().st_size
        most = most_bytes - size if most_bytes else int(size * _MOST_MP4_SHARE)
        # How long it is; the hash tells where everything lies then.
        draft = replace(manifest, mp4_hash=NO_HASH)
        signer, sandbox = self._signer, self._sandbox()
        signed, draft = self._signed(signer, draft, b"", most - len(mp4_box(b"")))
        with _signing_failures():
            sign_mp4(
                file,
                len(signed),
                lambda digest: sandbox.signed(replace(draft, mp4_hash=digest), b"", signer),
            )

    def _read(self, source: Path) -> Credentials:
        if importlib.util.find_spec("c2pa") is None:
            raise MediaError(INSTALL)
        return self._sandbox().credentials(source)

    @cached_property
    def _signer(self) -> Signer | None:
        """Loaded for each batch: a certificate is renewed without a restart."""
        cert, key = self._settings.c2pa_cert, self._settings.c2pa_key
        if cert is None or key is None:
            return None
        with media_failures():
            return load_signer(cert, key)

    def _sandbox(self) -> Sandbox:
        return renderers.media_sandbox(self._settings, CREDENTIALS)

    def _signed(
        self, signer: Signer, manifest: Manifest, picture: bytes, most_bytes: int
    ) -> tuple[bytes, Manifest]:
        """As `Sandbox.signed`, and of which manifest: those of its sources are left out if they are
        broken, or if it had more than `most_bytes` with them.
        """
        sandbox = self._sandbox()
        with _signing_failures():
            if any(one.file for one in manifest.ingredients):
                try:
                    signed = sandbox.signed(manifest, picture, signer)
                    if len(signed) <= most_bytes:
                        return signed, manifest
                    logger.info("%s: the credentials of its sources are too large", manifest.title)
                except MediaError as error:
                    logger.warning("%s: credentials of its sources: %s", manifest.title, error)
            plain = tuple(replace(one, file=None) for one in manifest.ingredients)
            manifest = replace(manifest, ingredients=plain)
            return sandbox.signed(manifest, picture, signer), manifest


@contextmanager
def _signing_failures() -> Iterator[None]:
    """Raises SigningUnavailable where `media_failures` blames the file, or ffmpeg."""
    try:
        with media_failures():
            yield
    except (SourceUnreadable, SourceOverLimit, EncoderUnusable) as error:
        raise SigningUnavailable(str(error)) from error


def _manifest(
    key: str, media_type: str, actions: Sequence[str], sources: Sequence[Ingredient]
) -> Manifest:
    title = PurePosixPath(key).name
    # The same file may be several shots.
    unique = {one.sha256: one for one in sources}
    return Manifest(title, media_type, VERSION, tuple(actions), tuple(unique.values()))
