"""The application's tables. The application's SQL is here and nowhere else."""

from lens_pipeline.catalog.listing import ListedGeneration, Place, Selection
from lens_pipeline.catalog.projection import Projected
from lens_pipeline.catalog.reading import Catalog, CatalogError
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

__all__ = [
    "FINISHED",
    "Catalog",
    "CatalogError",
    "Generation",
    "Kind",
    "ListedGeneration",
    "MasterVideo",
    "Place",
    "Position",
    "ProjectAsset",
    "Projected",
    "Row",
    "ScaledVideo",
    "Selection",
    "Shot",
    "UnusableRow",
]
