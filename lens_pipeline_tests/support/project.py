"""A project of a site as the tests see it."""

import json
from typing import Any

from lens_pipeline_tests.media.samples import scene, write_video
from lens_pipeline_tests.support.site import Site

PROJECT = "p1"
# Videos by how they were made: most tests have the same one.
_ENCODED: dict[str, bytes] = {}


class Project:
    """A project of a site: assets, masters and renditions go in as rows."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def shot(self, name: str, **video: Any) -> str:
        """A finished video of a second in the store, and an asset of it; returns the asset's id."""
        key = f"u1/uploads/{name}.mp4"
        file = self._site.store / key
        file.parent.mkdir(parents=True, exist_ok=True)
        like = repr(video)
        if like not in _ENCODED:
            size = video.pop("size", (160, 120))
            frames = [scene(*size, seed=number) for number in range(24)]
            write_video(file, frames, **{"audio_seconds": 1.0, **video})
            _ENCODED[like] = file.read_bytes()
        file.write_bytes(_ENCODED[like])
        self._site.add(name, key, type="video")
        self.asset(name, generation_id=name)
        return name

    def asset(self, asset_id: str, **columns: Any) -> None:
        row = {"project_id": PROJECT, "generation_id": None, "asset_url": None, **columns}
        self._site.sql(
            "INSERT INTO project_assets (asset_id, project_id, generation_id, asset_url)"
            " VALUES (:id, :project_id, :generation_id, :asset_url)",
            id=asset_id,
            **row,
        )

    def master(self, master_id: str, shots: Any, name: str = "A film") -> None:
        self._site.sql(
            "INSERT INTO master_videos (master_id, project_id, name, shots_config, updated_at)"
            " VALUES (:id, :project, :name, CAST(:shots AS jsonb), now())",
            id=master_id,
            project=PROJECT,
            name=name,
            shots=json.dumps(shots),
        )

    def rendition(self, scaled_id: str, master_id: str, **columns: Any) -> None:
        row = {"start": None, "end": None, "width": 80, "height": 60, **columns}
        self._site.sql(
            "INSERT INTO scaled_videos"
            " (scaled_id, master_id, start_seconds, end_seconds, width, height)"
            " VALUES (:id, :master_id, :start, :end, :width, :height)",
            id=scaled_id,
            master_id=master_id,
            **row,
        )

    def states(self, row_id: str) -> dict[str, str]:
        """The state of each derivative of an id, by asset."""
        found = self._site.lens("status", row_id, "--json").json["status"]
        return {entry.get("asset"): entry["state"] for entry in found}

    def reason(self, row_id: str) -> str:
        """Why a master is dead."""
        letter = self._site.dead_letters()[row_id]
        return f"{letter['error_class']}: {letter['error']}"
