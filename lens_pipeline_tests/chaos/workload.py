"""What the application does meanwhile: rows, good and bad, and what must come of them."""

import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.derivatives.registry import (
    MASTER,
    MASTER_POSTER,
    POSTER,
    PREVIEW,
    SCALED,
    Derivative,
)
from lens_pipeline_tests.chaos.deployment import Deployment
from lens_pipeline_tests.media.samples import encoded, scene, texture, write_video
from lens_pipeline_tests.support import sources

USERS = ("ann", "ben", "cem")
PROJECT = "film"
MADE_FROM: dict[str, tuple[Derivative, ...]] = {
    "photo": (PREVIEW,),
    "video": (POSTER,),
    "master": (MASTER, MASTER_POSTER),
    "scaled": (SCALED,),
}
_AGAIN_SECONDS = 0.5
# Of a stack that stops and is started again.
_END_SECONDS = 300
_MOST_SHOTS = 4
# Of the rows of a backfill, some are deleted.
_BACKFILLED, _DELETED = 20, 3
_GOOD_PHOTOS = {
    "/small.jpg": sources.jpeg,
    "/large.jpg": sources.large_jpeg,
    "/texture.png": sources.png,
    "/animated.webp": sources.animated_webp,
    "/sixteen-bit.png": sources.sixteen_bit,
    "/photo.webp": lambda: encoded(texture(900, 1400), "WEBP", quality=90),
}
_GOOD_VIDEOS: dict[str, Callable[[], bytes]] = {
    "/plain.mp4": lambda: _video(size=(320, 240), audio_seconds=1.0),
    "/alike.mp4": lambda: _video(size=(320, 240), audio_seconds=1.0, seed=50),
    "/tall.mp4": lambda: _video(size=(240, 320), rate=25),
    # So long that its encode can be hit.
    "/long.mp4": lambda: _video(size=(640, 360), rate=25, turns=6),
}
# Why each may be given up on.
_BAD_PHOTOS = {
    "/missing.jpg": "SourceMissing",
    "/status/403": "SourceRefused",
    "/noise.jpg": "SourceUnreadable",
    "/cut-off.jpg": "SourceUnreadable",
    "/page.jpg": "SourceUnreadable",
    "/bomb.png": "SourceOverLimit",
    "http://10.1.2.3/private.jpg": "UnsafeAddress",
    "file:///etc/passwd": "UnsafeAddress",
}
_BAD_VIDEOS = {
    "/missing.mp4": "SourceMissing",
    "/cut-off.mp4": "SourceUnreadable",
    "/sound.mp4": "SourceUnreadable",
    "/playlist.mp4": "SourceUnreadable",
}


@dataclass
class Expected:
    """A row, and the reasons for which it may be dead; without any it must become ready."""

    kind: str
    reasons: frozenset[str] = frozenset()
    # Others are made from it, so it stays.
    is_used: bool = False


@dataclass
class Workload:
    """Does one thing after the other, in a thread of its own, whatever is broken."""

    deployment: Deployment
    rng: random.Random
    per_second: float
    rows: dict[str, Expected] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    assets: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    # How often each was asked for by a backfill of the UI, by asset and row.
    backfilled: Counter[tuple[str, str]] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _count: int = 0
    _doing: str = ""
    _trouble: str = ""

    def begin(self) -> None:
        self._serve_sources()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let it finish what it does, which it may need the database for."""
        self._stop.set()
        deadline = time.monotonic() + _END_SECONDS
        while self._thread is not None and self._thread.is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the application's database did not answer: {self._doing}, {self._trouble}"
                )
            self.deployment.keep_running()
            self._thread.join(_AGAIN_SECONDS)

    def _serve_sources(self) -> None:
        served = self.deployment.sources
        for path, make in {**_GOOD_PHOTOS, **_GOOD_VIDEOS}.items():
            served.put(path, make())
        served.put("/noise.jpg", random.Random(1).randbytes(5000))
        served.put("/cut-off.jpg", sources.large_jpeg()[:20_000])
        served.put("/page.jpg", b"<!doctype html><title>Not found</title>")
        served.put("/bomb.png", sources.bomb())
        served.put("/cut-off.mp4", sources.mp4()[:2000])
        served.put("/sound.mp4", sources.audio_only())
        served.put("/playlist.mp4", sources.playlist(served.url("/small.jpg")))

    def _run(self) -> None:
        actions: list[tuple[Callable[[], None], int]] = [
            (self._photo, 30), (self._video, 10), (self._bad_photo, 5), (self._bad_video, 3),
            (self._shaky, 4), (self._late, 4), (self._again, 4), (self._delete, 2),
            (self._many, 1), (self._master, 5), (self._bad_master, 1), (self._scaled, 3),
            (self._away, 2), (self._backfill, 1),
        ]  # fmt: skip
        choices, weights = zip(*actions, strict=True)
        while not self._stop.wait(self.rng.expovariate(self.per_second)):
            action = self.rng.choices(choices, weights)[0]
            self._doing = action.__name__
            action()
            name = action.__name__.strip("_")
            self.done[name] = self.done.get(name, 0) + 1

    # --- what happens

    def _photo(self) -> None:
        self._add("photo", self._url(self.rng.choice(list(_GOOD_PHOTOS))))

    def _many(self) -> None:
        user = self.rng.choice(USERS)
        for _ in range(self.rng.randrange(10, 30)):
            self._add("photo", self._url("/small.jpg"), user=user)

    def _video(self) -> None:
        video = self._add("video", self._url(self.rng.choice(list(_GOOD_VIDEOS))))
        if self.rng.random() < 0.7:
            self._asset(video)

    def _bad_photo(self) -> None:
        self._bad("photo", _BAD_PHOTOS)

    def _bad_video(self) -> None:
        self._bad("video", _BAD_VIDEOS)

    def _bad(self, kind: str, sources_by_reason: dict[str, str]) -> str:
        source, reason = self.rng.choice(list(sources_by_reason.items()))
        return self._add(kind, self._url(source), reasons={reason})

    def _shaky(self) -> None:
        """Good, after some errors of its server."""
        path = f"/shaky-{self._count}.jpg"
        self.deployment.sources.put(path, sources.jpeg(200, 150))
        self.deployment.sources.fail_first(path, self.rng.choice([500, 503, 429]), times=4)
        self._add("photo", self._url(path))

    def _away(self) -> None:
        """Good, and its server is not there yet."""
        self._add("photo", f"{self.deployment.away_proxy.url}/small.jpg")

    def _late(self) -> None:
        """Inserted while it is being generated, and finished later."""
        row_id = self._add("photo", None, status="generating", expected=False)
        self._stop.wait(self.rng.uniform(0.1, 2))
        self._sql(
            "UPDATE generations SET status = 'completed', asset_url = :url, updated_at = now()"
            " WHERE id = :id",
            id=row_id,
            url=self._url("/small.jpg"),
        )
        self.rows[row_id] = Expected("photo")

    def _again(self) -> None:
        """Generated anew under its old id."""
        good = [key for key, row in self.rows.items() if row.kind == "photo" and not row.reasons]
        if good:
            self._sql(
                "UPDATE generations SET asset_url = :url, updated_at = now() WHERE id = :id",
                id=self.rng.choice(good),
                url=self._url(f"/texture.png?{self._count}"),
            )

    def _delete(self) -> None:
        unused = self._unused("photo", "video")
        if len(unused) > 20:
            self._delete_row(self.rng.choice(unused))

    def _unused(self, *kinds: str) -> list[str]:
        return [
            key
            for key, row in self.rows.items()
            if row.kind in kinds and not row.is_used and not row.reasons
        ]

    def _delete_row(self, gone: str) -> None:
        self._sql("DELETE FROM generations WHERE id = :id", id=gone)
        del self.rows[gone]
        self.deleted.append(gone)

    def _backfill(self) -> None:
        """A backfill of the UI, some of whose rows are deleted while it is under way."""
        try:
            known = set(self.deployment.partitions(PREVIEW))
            keys = [key for key in self._unused("photo") if key in known][-_BACKFILLED:]
            if len(keys) < _BACKFILLED:
                return
            self.backfilled.update((PREVIEW.asset, key) for key in keys)
            self.deployment.stack.launch_backfill(PREVIEW.asset, keys)
        except (OSError, DBAPIError, StackError) as error:
            self._trouble = str(error)
            return
        for gone in self.rng.sample(keys, _DELETED):
            self._stop.wait(self.rng.uniform(0, 3))
            self._delete_row(gone)

    def _master(self) -> None:
        if self.assets:
            count = self.rng.randrange(1, _MOST_SHOTS + 1)
            self._film(self.rng.choices(self.assets, k=count), frozenset())

    def _bad_master(self) -> None:
        """A film with a shot that no player could play."""
        video = self._bad("video", {"/cut-off.mp4": "SourceUnreadable"})
        bad = self._asset(video, is_good=False)
        self._film([*self.assets[:1], bad], frozenset({"ShotUnusable"}))

    def _film(self, shots: list[str], reasons: frozenset[str]) -> None:
        master = self._name("film")
        self._sql(
            "INSERT INTO master_videos"
            " (master_id, project_id, name, shots_config, created_at, updated_at)"
            " VALUES (:id, :project, 'A film', CAST(:shots AS jsonb), now(), now())"
            " ON CONFLICT DO NOTHING",
            id=master,
            project=PROJECT,
            shots=json.dumps(shots),
        )
        self.rows[master] = Expected("master", reasons, is_used=True)

    def _scaled(self) -> None:
        good = [key for key, row in self.rows.items() if row.kind == "master" and not row.reasons]
        if not good:
            return
        scaled = self._name("cut")
        self._sql(
            "INSERT INTO scaled_videos"
            " (scaled_id, master_id, start_seconds, end_seconds, width, height, created_at)"
            " VALUES (:id, :master, NULL, 0.5, 80, 60, now()) ON CONFLICT DO NOTHING",
            id=scaled,
            master=self.rng.choice(good),
        )
        self.rows[scaled] = Expected("scaled")

    # --- how

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{what}-{self._count:05}"

    def _url(self, source: str) -> str:
        return source if "://" in source else self.deployment.source_proxy.url + source

    def _add(
        self,
        kind: str,
        url: str | None,
        *,
        user: str | None = None,
        status: str = "success",
        reasons: set[str] | None = None,
        expected: bool = True,
    ) -> str:
        row_id = self._name(kind)
        self._sql(
            "INSERT INTO generations (id, user_id, type, status, asset_url, created_at, updated_at)"
            " VALUES (:id, :user, :kind, :status, :url, now(), now()) ON CONFLICT DO NOTHING",
            id=row_id,
            user=user or self.rng.choice(USERS),
            kind=kind,
            status=status,
            url=url,
        )
        if expected:
            self.rows[row_id] = Expected(kind, frozenset(reasons or ()))
        return row_id

    def _asset(self, video: str, *, is_good: bool = True) -> str:
        asset = self._name("asset")
        self._sql(
            "INSERT INTO project_assets (asset_id, project_id, generation_id, created_at)"
            " VALUES (:id, :project, :video, now()) ON CONFLICT DO NOTHING",
            id=asset,
            project=PROJECT,
            video=video,
        )
        self.rows[video].is_used = True
        if is_good:
            self.assets.append(asset)
        return asset

    def _sql(self, statement: str, **values: Any) -> None:
        """Execute it once, however often that has to be tried: the application is patient."""
        self._trouble = "without an error"
        while True:
            try:
                self.deployment.site.sql(statement, **values)
            except (DBAPIError, StackError) as error:
                self._trouble = str(error)
                time.sleep(_AGAIN_SECONDS)
            else:
                return


def _video(*, size: tuple[int, int], seed: int = 0, turns: int = 1, **options: Any) -> bytes:
    """A second of moving pictures, so many times."""
    with tempfile.TemporaryDirectory() as directory:
        frames = [scene(*size, seed=seed + number) for number in range(24)] * turns
        return write_video(Path(directory) / "video.mp4", frames, **options).read_bytes()
