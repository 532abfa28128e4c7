"""What was once checked by hand after every release, over HTTP and SQL, on the whole stack."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx

from lens_pipeline_tests.providers.provider_server import ProviderServer
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.stack import Stack
from lens_pipeline_tests.web.routes.signatures import headers

# On two busy cores; most take one.
SECONDS = 30


@dataclass(frozen=True)
class Checklist:
    """The points to check, in order; each leaves behind what the next ones build on."""

    stack: Stack
    web: httpx.Client
    provider: ProviderServer
    files: HostileServer
    site: Site
    photo: str
    video: str

    def new_ones(self) -> None:
        """A photo and a video that finish become ready by themselves."""
        self.site.add("photo", self.photo)
        self.site.add("video", self.video, type="video")
        assert self.ready("photo")["path"] == "u1/previews/photo_preview.webp"
        assert self.ready("video")["path"] == "u1/posters/video_poster.webp"
        poster = self.site.store / "u1/posters/video_poster.webp"
        assert poster.read_bytes()[8:12] == b"WEBP"

    def backfill_of_old_ones(self) -> None:
        """Rows that no sensor looks at any more; a file that fails meanwhile fails alone."""
        self.files.put("/flaky.jpg", sources.jpeg())
        self.files.misbehave("/flaky.jpg", "/resets")
        self.site.add("failing", self.files.url("/flaky.jpg"))
        self.failed("failing", "failed", attempts=1)
        self.site.age_events("61 s")
        old = ["old1", "old2", "old3"]
        self.site.add_many(old, lambda _: self.photo, age="3 days")
        self.stack.tick_backfill()
        for row_id in old:
            self.ready(row_id)

    def webhook(self) -> None:
        """It finishes a row whose preview is there within seconds; ten of it make one."""
        self.site.add("hooked", None, status="generating", task_id="task_hooked")
        self.provider.say("task_hooked", "success", self.photo)
        now = int(time.time())
        said = [
            self.web.post(
                "/api/kie/webhook",
                json={"data": {"taskId": "task_hooked"}},
                headers=headers("task_hooked", at=now - number // 2),
            ).json()["status"]
            for number in range(10)
        ]
        assert Counter(said) == {"updated": 1, "unchanged": 4, "duplicate": 5}
        row = self.site.sql("SELECT status, asset_url FROM generations WHERE id = 'hooked'")
        assert row == [("success", self.photo)]
        self.ready("hooked")

    def idempotent_sync(self) -> None:
        """Again and again, before and after it is ready."""
        self.site.add("synced", None, status="generating", task_id="task_synced", type="video")
        self.provider.say("task_synced", "success", self.video)
        run_ids = [run_id for _ in range(5) for run_id in self.sync("task_synced")["run_ids"]]
        self.ready("synced")
        assert self.sync("task_synced")["run_ids"] == []
        assert run_ids == self.made_by("poster", "synced")

    def error_handling(self) -> None:
        """What failed says why, in the library and in the row."""
        failed = self.failed("failing", "failed", attempts=2)
        assert failed["error_class"] == "SourceUnavailable"
        self.site.add("gone", self.files.url("/gone.jpg"))
        assert "404" in self.failed("gone", "dead", attempts=1)["error"]
        listed = self.web.get("/api/generations", params={"status": "dead"}).json()
        assert [entry["id"] for entry in listed["generations"]] == ["gone"]
        self.site.add("refused", None, status="generating", task_id="task_refused")
        self.provider.say("task_refused", "fail", failMsg="not allowed")
        assert self.sync("task_refused")["message"] == "not allowed"
        assert self.get("refused")["generation_status"] == "failed"

    def scheduled_repair(self) -> None:
        """The backfill makes what failed for now, and leaves alone what was given up on."""
        self.files.misbehave("/flaky.jpg", None)
        self.files.put("/gone.jpg", sources.jpeg())
        self.site.age_events("301 s")
        self.stack.tick_backfill()
        self.ready("failing")
        assert self.get("gone")["status"] == "dead"
        assert self.web.post("/api/generations/gone/retry").json()["status"] == "processing"
        self.ready("gone")

    def each_was_made_once(self) -> None:
        """Whatever came at once or again; the sensors have ticked since."""
        assert len(self.made_by("preview", "hooked")) == 1
        assert len(self.made_by("poster", "synced")) == 1
        runs = self.stack.graphql(
            "{ runsOrError { ... on Runs { results { tags { key value } } } } }"
        )
        tags = [tag for run in runs["runsOrError"]["results"] for tag in run["tags"]]
        origins = Counter(tag["value"] for tag in tags if tag["key"] == "lens/origin")
        assert origins["webhook"] == 1
        # The sync, and the retry.
        assert origins["api"] == 2

    def check(self) -> None:
        """Check every point."""
        self.new_ones()
        self.backfill_of_old_ones()
        self.webhook()
        self.idempotent_sync()
        self.error_handling()
        self.scheduled_repair()
        self.each_was_made_once()

    def get(self, row_id: str) -> Any:
        answer = self.web.get(f"/api/generations/{row_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ready(self, row_id: str) -> Any:
        return self._await(row_id, lambda entry: entry["status"] == "ready")

    def failed(self, row_id: str, status: str, attempts: int) -> Any:
        return self._await(
            row_id, lambda entry: (entry["status"], entry["attempts"]) == (status, attempts)
        )

    def sync(self, task_id: str) -> Any:
        answer = self.web.post("/api/kie/sync", params={"taskId": task_id})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def made_by(self, asset: str, partition: str) -> list[str]:
        """The runs that materialized it."""
        found = self.stack.graphql(
            """query ($key: AssetKeyInput!, $of: [String!]) { assetNodeOrError(assetKey: $key) {
                 ... on AssetNode { assetMaterializations(partitions: $of) { runId } } } }""",
            {"key": {"path": [asset]}, "of": [partition]},
        )
        return [event["runId"] for event in found["assetNodeOrError"]["assetMaterializations"]]

    def _await(self, row_id: str, is_so: Callable[[Any], bool]) -> Any:
        def look() -> Any:
            entry = self.get(row_id)
            return entry if is_so(entry) else None

        return eventually(look, SECONDS, f"the end of {row_id}")
