"""The application's tables, as this project creates them where absent."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, SetTableComment

metadata = sa.MetaData()
_now = sa.func.now()
TIME = sa.DateTime(timezone=True)
# The comment on tables that may be altered later: no host made them.
MADE_BY = "made by lens migrate"

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
    # A host's table may be without these: see `additions`.
    sa.Column("fill", sa.Text),
    sa.Column("focus", sa.Text),
    sa.Column("order_id", sa.Text),
    comment=MADE_BY,
)
# Of `scaled_videos`, added after version 0.3.
ADDED = ("fill", "focus", "order_id")

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
            if table.comment:
                statements.append(str(SetTableComment(table).compile(dialect=dialect)))
    return statements


def additions(connection: sa.Connection) -> list[str]:
    """The statements that add `ADDED`, and its index, to a table that `creation` made.

    Versions before the comment made exactly `_EARLIER`, with two indexes: such a table is ours.
    """
    if not connection.scalar(_IS_BEHIND, {"comment": MADE_BY, "earlier": _EARLIER}):
        return []
    columns = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} text" for name in ADDED)
    return [
        f"ALTER TABLE scaled_videos {columns}",
        "CREATE INDEX IF NOT EXISTS scaled_videos_order_id ON scaled_videos (order_id)",
        f"COMMENT ON TABLE scaled_videos IS '{MADE_BY}'",
    ]


# What the owner of a host's table may run.
BY_HAND = "ALTER TABLE scaled_videos " + ", ".join(f"ADD COLUMN {name} text" for name in ADDED)


def readable_additions(connection: sa.Connection) -> bool:
    """Whether the table has all of `ADDED`, and this role may read them."""
    return bool(connection.scalar(_ARE_ADDED, {"names": list(ADDED)}))


_ARE_ADDED = sa.text(
    """
    SELECT count(*) = cardinality(CAST(:names AS text[])) FROM pg_attribute
     WHERE attrelid = to_regclass('scaled_videos') AND attname = ANY(:names)
       AND NOT attisdropped AND has_column_privilege(attrelid, attnum, 'SELECT')
    """
)
_EARLIER = (
    "scaled_id text true,master_id text true,start_seconds double precision false,"
    "end_seconds double precision false,width integer true,height integer true,"
    "created_at timestamp with time zone true"
)
# Whether a table that `lens migrate` made lacks the columns of orders.
_IS_BEHIND = sa.text(
    """
    SELECT NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'order_id')
       AND (obj_description(c.oid, 'pg_class') = :comment
            OR obj_description(c.oid, 'pg_class') IS NULL AND :earlier = (
                 SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod),
                                   CASE WHEN attnotnull THEN 'true' ELSE 'false' END), ','
                                   ORDER BY attnum)
                   FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
               AND 2 = (SELECT count(*) FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid
                         WHERE i.indrelid = c.oid AND n.relname IN
                               ('scaled_videos_master_id', 'scaled_videos_created_at_id')))
      FROM pg_class c WHERE c.oid = to_regclass('scaled_videos')
    """
)


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
sa.Index("scaled_videos_order_id", scaled_videos.c.order_id)
sa.Index("scaled_videos_created_at_id", row_time(scaled_videos), scaled_videos.c.scaled_id)
