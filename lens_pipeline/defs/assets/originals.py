"""Fetches the files of generations and keeps them: what a user paid for must not expire."""

import contextlib
import logging
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import dagster as dg

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Generation, Kind, Row, Shot
from lens_pipeline.defs.labels import links_of
from lens_pipeline.derivatives.originals import (
    ExtraFile,
    StoredOriginal,
    content_facts,
    extra_files,
    extra_observation,
    original_metadata,
    stored_originals,
    to_keep,
)
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import NOT_KEPT, ORIGINALS, RECORDED, SAVED, primary
from lens_pipeline.errors import (
    DerivativeError,
    DiskFull,
    ExtraMissing,
    SourceMissing,
    SourceRefused,
    SourceUnavailable,
    SourceUnreadable,
    StoreUnavailable,
)
from lens_pipeline.media.formats import file_extension, quote_head, read_head
from lens_pipeline.providers import configured, fresh_url, provider_of
from lens_pipeline.providers.models import ProviderError, ProviderUnavailable
from lens_pipeline.storage.content_types import CONTENT_TYPES, content_type_of
from lens_pipeline.storage.download import Fetcher
from lens_pipeline.storage.object_store import (
    CACHE_IMMUTABLE,
    CACHE_REVALIDATE,
    Fetched,
    ObjectStore,
    is_object_key,
    transfer_seconds,
)
from lens_pipeline.storage.retries import FILE_RETRIES, FetchCancelled, retry_transient

if TYPE_CHECKING:
    from lens_pipeline.defs.assets.materializer import BatchContext

logger = logging.getLogger(__name__)

Metadata = dict[str, dg.MetadataValue | str | int | float]

# Faults of the surroundings, which say nothing of a link.
_OURS = (FetchCancelled, DiskFull, StoreUnavailable)


@dataclass(frozen=True, slots=True)
class Transfers:
    """Of a batch, to and from the store and from elsewhere."""

    fetcher: Fetcher
    store: ObjectStore
    cancelled: threading.Event

    def download(self, key: str, file: Path) -> Fetched:
        return retry_transient(
            lambda: self.store.read_into(key, file, cancelled=self.cancelled),
            FILE_RETRIES,
            cancelled=self.cancelled,
        )

    def upload(self, key: str, body: bytes | Path, content_type: str, revision: str | None) -> None:
        """Cached for ever if `key` holds the revision; None: its bytes may change."""
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        caching = CACHE_IMMUTABLE if revision and f"_{revision}." in key else CACHE_REVALIDATE
        retry_transient(
            lambda: self.store.write(key, body, content_type=content_type, cache_control=caching),
            FILE_RETRIES,
            within_seconds=transfer_seconds(size),
            cancelled=self.cancelled,
        )


class Originals:
    """The originals of a batch; thread-safe.

    A file that was fetched for a preview is handed over and stored by a thread of its own, as the
    preview must not wait for that. `keeps`: whether the run is to keep them.
    """

    def __init__(self, pipeline: Pipeline, transfers: Transfers, *, keeps: bool) -> None:
        self._pipeline = pipeline
        self._transfers = transfers
        self._keeps = keeps
        self._stored: dict[str, StoredOriginal] = {}
        self._extra: dict[str, list[ExtraFile]] = {}
        self._observed: dict[str, dg.AssetObservation] = {}
        self._handed: dict[str, Future[Metadata]] = {}
        threads = pipeline.settings.threads
        self._threads = ThreadPoolExecutor(threads, "original")
        # A slow store must not let the scratch directory fill up.
        self._room = threading.BoundedSemaphore(threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._threads.shutdown(wait=True, cancel_futures=True)
        except BaseException:
            # A second signal: what is half-written when the process ends stays in the store.
            self._threads.shutdown(wait=True)
            raise

    def look_up(self, kind: Kind, rows: Sequence[Row]) -> None:
        """Before `fetch`."""
        if kind in ORIGINALS:
            sources = {
                row.id: row.asset_url
                for row in rows
                # What was handed over was looked up before.
                if isinstance(row, Generation) and row.id not in self._handed
            }
            self._stored |= stored_originals(self._pipeline, kind, sources)

    def look_up_shots(self, shots: Iterable[Shot]) -> None:
        """Before `fetch_shot`."""
        sources = {s.generation_id: s.source for s in shots if s.generation_id and s.source}
        self._stored |= stored_originals(self._pipeline, Kind.VIDEO, sources)

    def look_up_extra(self, kind: Kind, keys: Collection[str]) -> None:
        """Before `with_extra`."""
        self._extra |= extra_files(self._pipeline, kind, keys)

    def lacks_extra(self, key: str) -> bool:
        """Whether a further result of its task is still to be kept."""
        return to_keep(self._pipeline, self._extra.get(key, []))

    def fetch(self, row: Generation, file: Path) -> Fetched:
        """From the store, else from the row's link. Raises as `Fetcher`."""
        is_recorded = row.id in self._stored
        try:
            return self._fetch(row.id, row.asset_url, file)
        except _OURS:
            raise
        except DerivativeError as error:
            revision = ORIGINALS[row.kind].revision_of(row.asset_url)
            path = None if is_recorded else self._unrecorded(row, revision)
            if path is None:
                # It would fail again.
                self._handed[row.id] = Future()
                self._handed[row.id].set_exception(error)
                raise
            return self._transfers.download(path, file)

    def fetch_again(self, row: Row, file: Path) -> Fetched | None:
        """From the link, if what is stored cannot be read: it may have been cut short.

        None: nothing else is to be had.
        """
        if not isinstance(row, Generation) or row.id not in self._stored:
            return None
        try:
            fetched = self._transfers.fetcher.fetch(row.asset_url, file)
        except _OURS:
            raise
        except DerivativeError:
            return None
        is_new = fetched.sha256 != self._stored[row.id].sha256
        return fetched if is_new and file_extension(read_head(file)) else None

    def fetch_shot(self, shot: Shot, file: Path) -> Fetched:
        """From the store, else from the shot's link. Raises as `Fetcher`."""
        return self._fetch(shot.generation_id or "", shot.source, file)

    def release(self, row: Row, file: Path, fetched: Fetched, facts: Metadata) -> None:
        """Delete `file`, after keeping it as the original of `row` if it is to be kept.

        Without `facts` it could not be rendered, and replaces nothing.
        """
        stored = self._stored.get(row.id)
        is_kept = stored is not None and (stored.sha256 == fetched.sha256 or not facts)
        if (
            not isinstance(row, Generation)
            or not self._keeps
            or is_kept
            or self._transfers.cancelled.is_set()
        ):
            file.unlink(missing_ok=True)
            return
        self._room.acquire()
        self._handed[row.id] = self._threads.submit(
            copy_context().run, self._keep_handed, row, file, fetched, facts
        )

    def handed(self, row_id: str) -> Future[Metadata] | None:
        """The metadata of what was released in this run and is to be recorded."""
        return self._handed.get(row_id)

    def recorded(self, row: Generation) -> Metadata | None:
        """Anew, if the object is there as it was recorded."""
        stored = self._stored.get(row.id)
        if stored is None:
            return None
        info = self._transfers.store.stat(stored.path)
        if info is None or info.bytes != stored.bytes:
            return None
        kept, fetched = str(stored.metadata["kept"]), Fetched(stored.bytes, stored.sha256)
        facts = {"links": _links(row), **content_facts(stored.metadata)}
        return original_metadata(self._transfers.store, row, stored.path, kept, fetched, facts)

    def keep(self, row: Generation, file: Path, fetched: Fetched, facts: Metadata) -> Metadata:
        """Store `file` unless it lies in the store already. Raises DerivativeError."""
        started = time.monotonic()
        path, kept = None, NOT_KEPT
        if is_object_key(row.asset_url):
            path, kept = row.asset_url.strip(), RECORDED
            extension = file_extension(read_head(file))
        else:
            extension = _extension(file)
            if self._pipeline.settings.keep_originals != "never":
                original = ORIGINALS[row.kind]
                revision = original.revision_of(row.asset_url)
                path, kept = original.key(row, revision, extension), SAVED
                # Not for ever: a file that was cut short is replaced under its key.
                self._transfers.upload(path, file, content_type_of(path), revision=None)
        if extension is not None:
            facts = {"content_type": CONTENT_TYPES[extension], **facts}
        metadata = original_metadata(self._transfers.store, row, path, kept, fetched, facts)
        return metadata | {"store_seconds": round(time.monotonic() - started, 4)}

    def with_extra(self, row: Generation, metadata: Metadata, file: Path) -> Metadata:
        """Keep the further results of its task, and list them; `file` is for the downloads.

        Raises ExtraMissing if one may be had later, or its error if nothing new is to be recorded.
        What is gone for good is listed with its error.
        """
        if row.id not in self._extra:
            return metadata
        files, later = self._keep_all_extra(row, file)
        metadata["extra_files"] = dg.MetadataValue.json([one.facts for one in files])
        if later:
            is_recorded = self._is_recorded(row, metadata, files)
            raise later[0] if is_recorded else ExtraMissing(str(later[0]), metadata)
        return metadata

    def without_original(self, row: Generation, file: Path) -> None:
        """Keep the further results of its task, whose original cannot be had."""
        files, _ = self._keep_all_extra(row, file)
        if [one.path for one in files] != [one.path for one in self._extra.get(row.id, [])]:
            self._observed[row.id] = extra_observation(row, files)

    def observed(self, row_id: str) -> dg.AssetObservation | None:
        """Of what was kept without its original, to be recorded."""
        return self._observed.pop(row_id, None)

    def _keep_all_extra(
        self, row: Generation, file: Path
    ) -> tuple[list[ExtraFile], list[DerivativeError]]:
        """What became of each, and why some are to be tried again."""
        files: list[ExtraFile] = []
        later: list[DerivativeError] = []
        for listed in self._extra.get(row.id, []):
            one = listed
            try:
                if not self._is_kept(one):
                    one = replace(one, path=None)
                    one = self._keep_extra(row, one, file)
            except DerivativeError as error:
                # A store that did not answer has lost nothing.
                one = one if one.path else replace(one, error=str(error))
                why = f"result {one.n} of its task: {error}"
                later += [] if error.permanent else [type(error)(why)]
            finally:
                file.unlink(missing_ok=True)
            files.append(one)
        return files, later

    def _is_recorded(self, row: Generation, metadata: Metadata, files: Sequence[ExtraFile]) -> bool:
        """If so, a materialization would only take back the failures and the delay after them."""
        stored = self._stored.get(row.id)
        history = self._pipeline.log.histories(ORIGINALS[row.kind].asset, [row.id]).get(row.id)
        if stored is None or history is None or history.made is None:
            return False
        listed = [(one["n"], one.get("path")) for one in stored.metadata.get("extra_files", [])]
        is_same = (stored.path, stored.sha256) == (metadata.get("path"), metadata["sha256"])
        return is_same and listed == [(one.n, one.path) for one in files]

    def _is_kept(self, one: ExtraFile) -> bool:
        """Or cannot be. Raises StoreUnavailable."""
        if one.url is None or self._pipeline.settings.keep_originals == "never":
            return True
        info = self._transfers.store.stat(one.path) if one.path else None
        return info is not None and info.bytes == one.bytes

    def _keep_extra(self, row: Generation, one: ExtraFile, file: Path) -> ExtraFile:
        """Raises DerivativeError."""
        try:
            fetched = self._transfers.fetcher.fetch(one.url, file)
            extension = _extension(file)
            path = ORIGINALS[row.kind].key(row, one.revision, extension, one.n)
            self._transfers.upload(path, file, content_type_of(path), revision=None)
        except _OURS:
            raise
        except DerivativeError:
            path = self._unrecorded(row, one.revision, one.n)
            if path is None:
                raise
            fetched = self._transfers.download(path, file)
            if one.sha256 not in (None, fetched.sha256):
                raise
            extension = _extension(file)
        return replace(
            one,
            path=path,
            bytes=fetched.bytes,
            sha256=fetched.sha256,
            content_type=CONTENT_TYPES[extension],
            error=None,
        )

    def _fetch(self, key: str, source: str | None, file: Path) -> Fetched:
        stored = self._stored.get(key)
        if stored is not None:
            with contextlib.suppress(SourceMissing):
                fetched = self._transfers.download(stored.path, file)
                if not stored.is_ours or fetched.sha256 == stored.sha256:
                    return fetched
                logger.warning("%s has other bytes than were stored: it is not used", stored.path)
            self._stored.pop(key, None)
        try:
            return self._transfers.fetcher.fetch(source, file)
        except (SourceMissing, SourceRefused):
            renewed = self._renewed(key, source or "")
            if renewed is None:
                raise
            return self._transfers.fetcher.fetch(renewed, file)

    def _renewed(self, generation_id: str, link: str) -> str | None:
        """Another link from the provider of its task; None: there is none.

        Raises SourceUnavailable: the provider cannot say now.
        """
        settings = self._pipeline.settings
        # A link with a query may contain a secret of another store.
        if is_object_key(link) or "?" in link or not configured(settings):
            return None
        try:
            row = self._pipeline.catalog.task_of(generation_id)
            name = provider_of(row.provider, settings)[0] if row else ""
            return fresh_url(settings, name, link) if name in configured(settings) else None
        except ProviderUnavailable as error:
            raise SourceUnavailable(
                f"its link has ended, and another one cannot be had now: {error}",
                retry_after_seconds=error.retry_after_seconds,
            ) from error
        except (ProviderError, CatalogError) as error:
            logger.warning("no other link for row %r: %s", generation_id, error)
            return None

    def _unrecorded(self, row: Generation, revision: str, n: int = 1) -> str | None:
        """What a run stored that was killed before it could record it."""
        prefix = ORIGINALS[row.kind].key(row, revision, ".", n)
        return next((info.key for info in self._transfers.store.list(prefix)), None)

    def _keep_handed(
        self, row: Generation, file: Path, fetched: Fetched, facts: Metadata
    ) -> Metadata:
        try:
            return self.keep(row, file, fetched, facts)
        finally:
            file.unlink(missing_ok=True)
            self._room.release()


def _links(row: Generation) -> dg.MarkdownMetadataValue:
    """Those of its picture, which an earlier run has made."""
    picture = primary(row.kind)
    return links_of(picture, row, picture.object_key(row, ""))


def _extension(file: Path) -> str:
    """By content. Raises SourceUnreadable: an error page, for example."""
    head = read_head(file)
    extension = file_extension(head)
    if extension is None:
        raise SourceUnreadable(f"neither a picture nor a video: starts with {quote_head(head)}")
    return extension


class OriginalMaterializer:
    """Records what the preview's materializer handed over, or fetches the file itself."""

    def make(self, batch: "BatchContext", row: Row, revision: str) -> Metadata:
        if not isinstance(row, Generation):
            raise TypeError(f"{row.id} is no generation")
        # Ids of rows do not begin so.
        file = batch.scratch / f"+{row.id}"
        try:
            metadata = self._original(batch, row)
        except _OURS:
            raise
        except DerivativeError:
            # Their links expire as well.
            batch.originals.without_original(row, file)
            raise
        return batch.originals.with_extra(row, metadata, file)

    def _original(self, batch: "BatchContext", row: Generation) -> Metadata:
        handed = batch.originals.handed(row.id)
        if handed is not None:
            return handed.result()
        recorded = batch.originals.recorded(row)
        if recorded is not None:
            return recorded
        file = batch.scratch / row.id
        try:
            fetched = batch.originals.fetch(row, file)
            return batch.originals.keep(row, file, fetched, {"links": _links(row)})
        finally:
            file.unlink(missing_ok=True)

    def interrupt(self) -> None:
        """Does nothing: transfers look at `batch.cancelled`."""
