"""The application's tables. The application's SQL is here and nowhere else."""

from lens_pipeline.catalog.errors import CatalogError, NoRightToWrite
from lens_pipeline.catalog.listing import ListedGeneration, Place, Selection
from lens_pipeline.catalog.projection import Projected
from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.reading import Catalog
from lens_pipeline.catalog.rows import (
    FINISHED,
    Generation,
    Kind,
    MasterVideo,
    Position,
    ProjectAsset,
    Row,
    ScaledVideo,
    Shot,
    UnusableRow,
)
from lens_pipeline.catalog.shots import MOST_SHOTS
from lens_pipeline.catalog.writing import TaskRow

__all__ = [
    "FINISHED",
    "MOST_SHOTS",
    "Catalog",
    "CatalogError",
    "Generation",
    "Kind",
    "Listed",
    "ListedGeneration",
    "MasterVideo",
    "NoRightToWrite",
    "Place",
    "Position",
    "ProjectAsset",
    "Projected",
    "Row",
    "ScaledVideo",
    "Selection",
    "Shot",
    "TaskRow",
    "UnusableRow",
]
