"""The application's tables, as this project creates them where absent."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

metadata = sa.MetaData()
_now = sa.func.now()
TIME = sa.DateTime(timezone=True)

generations = sa.Table(
    "generations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("asset_url", sa.Text),
    sa.Column("task_id", sa.Text, unique=True),
    sa.Column("created_at", TIME, nullable=False, server_default=_now),
    sa.Column("updated_at", TIME, server_default=_now),
)
project_assets = sa.Table(
    "project_assets",
    metadata,
    sa.Column("asset_id", sa.Text, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("generation_id", sa.Text),
    sa.Column("asset_url", sa.Text),
    sa.Column("created_at", TIME, nullable=False, server_default=_now),
)
master_videos = sa.Table(
    "master_videos",
    metadata,
    sa.Column("master_id", sa.Text, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("shots_config", postgresql.JSONB, nullable=False),
    sa.Column("created_at", TIME, nullable=False, server_default=_now),
    sa.Column("updated_at", TIME, server_default=_now),
)
scaled_videos = sa.Table(
    "scaled_videos",
    metadata,
    sa.Column("scaled_id", sa.Text, primary_key=True),
    sa.Column("master_id", sa.Text, nullable=False),
    sa.Column("start_seconds", sa.Double),
    sa.Column("end_seconds", sa.Double),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("created_at", TIME, nullable=False, server_default=_now),
)

# The columns that are read; a host's own tables need no others.
READ = {
    "generations": ("id", "user_id", "type", "status", "asset_url", "created_at", "updated_at"),
    "project_assets": ("asset_id", "project_id", "generation_id", "asset_url", "created_at"),
    "master_videos": (
        *("master_id", "project_id", "name", "shots_config"),
        *("created_at", "updated_at"),
    ),
    "scaled_videos": (
        *("scaled_id", "master_id", "start_seconds", "end_seconds", "width", "height"),
        "created_at",
    ),
}


def creation(names: Collection[str], dialect: sa.Dialect) -> list[str]:
    """The statements that make these tables with their indexes."""
    statements: list[str] = []
    for table in metadata.sorted_tables:
        if table.name in names:
            indexes = sorted(table.indexes, key=lambda index: str(index.name))
            made = (CreateTable(table), *map(CreateIndex, indexes))
            statements += [str(one.compile(dialect=dialect)) for one in made]
    return statements


def row_time(table: sa.Table) -> sa.ColumnElement:
    """When a row last changed."""
    if "updated_at" in table.c:
        return sa.func.coalesce(table.c.updated_at, table.c.created_at)
    return table.c.created_at


# The order of sensors and, backwards, of libraries.
sa.Index("generations_finished_at_id", row_time(generations), generations.c.id)
sa.Index(
    "generations_user_id_finished_at_id",
    generations.c.user_id,
    row_time(generations),
    generations.c.id,
)
sa.Index("project_assets_project_id", project_assets.c.project_id)
sa.Index("master_videos_project_id", master_videos.c.project_id)
sa.Index("master_videos_changed_at_id", row_time(master_videos), master_videos.c.master_id)
sa.Index("scaled_videos_master_id", scaled_videos.c.master_id)
sa.Index("scaled_videos_created_at_id", row_time(scaled_videos), scaled_videos.c.scaled_id)
