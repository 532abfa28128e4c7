"""Which projects there are; nothing has a table of them."""

import sqlalchemy as sa

from lens_pipeline.catalog.row_sets import as_text
from lens_pipeline.catalog.tables import master_videos, project_assets, row_time

# Whose projects come first.
_LATEST_MASTERS = 500


def read_project_ids(connection: sa.Connection, limit: int) -> list[str]:
    """Up to `limit` ids: of the latest masters, newest first, then of assets, in their order."""
    latest = (
        sa.select(
            as_text(master_videos.c.project_id).label("id"), row_time(master_videos).label("at")
        )
        .order_by(row_time(master_videos).desc())
        .limit(_LATEST_MASTERS)
        .subquery()
    )
    recent = sa.select(latest.c.id).group_by(latest.c.id).order_by(sa.func.max(latest.c.at).desc())
    found = [
        *connection.execute(recent).scalars(),
        *connection.execute(_of_assets(limit)).scalars(),
    ]
    return list(dict.fromkeys(found))[:limit]


def _of_assets(limit: int) -> sa.Select:
    """The first ids in the order of their index, from one to the next: not by reading every row."""
    project = project_assets.c.project_id
    first = sa.select(project.label("id")).order_by(project).limit(1)
    known = sa.select(first.subquery().c.id).cte("known", recursive=True)
    following = (
        sa.select(project).where(project > known.c.id).order_by(project).limit(1).scalar_subquery()
    )
    known = known.union_all(sa.select(following).where(known.c.id.is_not(None)))
    return sa.select(sa.cast(known.c.id, sa.Text)).where(known.c.id.is_not(None)).limit(limit)
