"""What the Dagster UI shows of definitions."""

from pathlib import Path

import dagster as dg
import pytest

from lens_pipeline.definitions import defs
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.settings import load


@pytest.fixture
def repository(environment: pytest.MonkeyPatch) -> dg.RepositoryDefinition:
    return defs().get_repository_def()


def _is_labelled(definition: object) -> bool:
    """Whether it has a description, an owner and a line of code that exists."""
    references = definition.metadata["dagster/code_references"]  # pyright: ignore[reportAttributeAccessIssue]
    (place,) = references.code_references
    lines = Path(place.file_path).read_text().splitlines()
    return all((definition.description, definition.owners, 0 < place.line_number <= len(lines)))  # pyright: ignore[reportAttributeAccessIssue]


def test_every_definition_is_described_owned_and_leads_to_its_code(
    repository: dg.RepositoryDefinition,
) -> None:
    """A page of the UI that says a name and nothing else."""
    made = [spec for d in repository.assets_defs_by_key.values() for spec in d.specs]
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    others = [*jobs, *repository.sensor_defs, *repository.schedule_defs]
    assert [one for one in (*made, *others) if not _is_labelled(one)] == []
    assert [spec.key for spec in made if not (spec.kinds and spec.tags)] == []


def test_a_picture_says_where_it_goes_and_how_it_is_made(
    repository: dg.RepositoryDefinition,
) -> None:
    """A quality that only the environment of another process tells."""
    key = dg.AssetKey("preview")
    preview = repository.assets_defs_by_key[key].specs_by_key[key]
    facts = {name: preview.metadata[name] for name in ("object_key", "edge", "quality")}
    assert facts == {
        "object_key": "{user_id}/previews/{id}_preview.webp",
        "edge": 768,
        "quality": 80,
    }
    assert str(preview.metadata["store"]).startswith("file:///")


def test_the_resource_shows_no_password(environment: pytest.MonkeyPatch) -> None:
    """A password in the Resources tab."""
    settings, _ = load(
        {
            "LENS_DATABASE_URL": "postgresql://lens:geheim@db.example.org/site",
            "LENS_BROKER_URL": "redis://:geheim@broker.example.org/0",
            "LENS_API_TOKEN": "geheim-0123456789abcdef",
        },
        dotenv=None,
    )
    shown = LensResource.of(settings).model_dump()
    assert shown["database"] == "postgresql://lens@db.example.org/site"
    assert shown["broker"] == "redis://broker.example.org/0"
    assert "geheim" not in repr(shown)
