"""Rows of `generations`: finished ones for the pipeline, and all for libraries."""

import datetime as dt
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from lens_pipeline.catalog.row_types import (
    IdColumn,
    RowSet,
    as_text,
    is_no_key,
    place,
    sha256_of,
    text_of,
)
from lens_pipeline.catalog.rows import FINISHED, Generation, Kind, Row, UnusableRow, known_time
from lens_pipeline.catalog.tables import READ, TIME, generations
from lens_pipeline.catalog.titles import has_words, pattern_of, title_of
from lens_pipeline.core.ids import key_problem
from lens_pipeline.settings import Settings

_KINDS = (Kind.PHOTO, Kind.VIDEO)
# The first string of a JSON value, of its list, or under `url` of an object in that.
_ADDRESS = """(coalesce(
    jsonb_path_query_first(to_jsonb({0}), '$[*] ? (@ like_regex "\\\\S")'),
    jsonb_path_query_first(to_jsonb({0}), '$[*].url ? (@ like_regex "\\\\S")')) #>> '{{}}')"""


@dataclass(frozen=True)
class Layout:
    """What a site's `generations` has where, as the settings say."""

    sources: tuple[str, ...] = ("asset_url",)
    """Columns of the file; the first that has something counts."""
    types: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {kind.value: [kind.value] for kind in _KINDS}
    )
    """Of each kind. Rows of others are not ours."""
    title: str | None = None
    """The column that names each for people."""

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        return cls(settings.source_columns, settings.types_by_kind, settings.title_column)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read."""
        usual = (name for name in READ["generations"] if name != "asset_url")
        return (*usual, *self.sources, *([self.title] if self.title else []))

    @property
    def setting_of(self) -> dict[str, str]:
        """Of the columns that a setting names."""
        named = {} if self.sources == ("asset_url",) else dict.fromkeys(self.sources)
        settings = dict.fromkeys(named, "LENS_SOURCE_COLUMNS")
        return settings | ({self.title: "LENS_TITLE_COLUMN"} if self.title else {})

    @property
    def addresses(self) -> list[sa.ColumnElement[str]]:
        """The address or object key in each of `sources`, or NULL."""
        if self.sources == ("asset_url",):
            return [generations.c.asset_url]
        columns = (f'generations."{name}"' for name in self.sources)
        return [sa.literal_column(_ADDRESS.format(column), sa.Text) for column in columns]

    @property
    def source(self) -> sa.ColumnElement[str]:
        first, *others = self.addresses
        return sa.func.coalesce(first, *others) if others else first

    def types_of(self, *kinds: Kind) -> list[str]:
        return [one for kind in kinds for one in self.types.get(kind.value, [])]

    @property
    def types_text(self) -> str:
        """As in LENS_TYPES."""
        return ",".join(f"{kind}={'|'.join(types)}" for kind, types in self.types.items())


@dataclass(frozen=True, slots=True)
class ListedGeneration:
    """A row of `generations` with any status."""

    id: str
    user_id: str
    kind: Kind
    status: str
    asset_url: str
    created_at: dt.datetime | None
    changed_at: dt.datetime | None
    title: str | None
    """For people: from the host's column, or the name of its file."""

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    def generation(self) -> Generation:
        """What the derivative of a finished row is made from."""
        finished_at = known_time(self.changed_at) or known_time(self.created_at)
        values = (self.asset_url, finished_at, known_time(self.created_at))
        return Generation(self.id, self.user_id, self.kind, *values)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which generations are listed; None: not restricted."""

    user_id: str | None = None
    kind: Kind | None = None
    finished: bool | None = None
    ids: Collection[str] | None = None
    words: str | None = None
    """Part of the title or the file's name, or the beginning of the id."""


@dataclass(frozen=True, slots=True)
class Place:
    """The end of a page, in the order (time of the row, id)."""

    changed_at: dt.datetime
    id: str


class GenerationRows(RowSet):
    """Photos, videos, or both."""

    def __init__(self, *kinds: Kind, layout: Layout, title: str | None = None) -> None:
        """`title`: a column of the host's table."""
        self._titles = [sa.cast(sa.column(title), sa.Text)] if title else []
        named = self._titles[0] if title else sa.null()
        type_ = as_text(generations.c.type)
        self._of_kind = {kind: type_.in_(layout.types_of(kind)) for kind in _KINDS}
        self.source = layout.source
        super().__init__(
            generations.c.id,
            generations.c.user_id,
            text_of(generations.c.user_id),
            text_of(generations.c.type),
            sa.case(*((is_it, kind.value) for kind, is_it in self._of_kind.items())).label("kind"),
            generations.c.status,
            self.source.label("asset_url"),
            sa.cast(generations.c.created_at, TIME).label("created_at"),
            named.label("title"),
        )
        self.user = IdColumn(generations.c.user_id)
        self._is_finished = generations.c.status.in_(FINISHED)
        self._has_no_key = sa.or_(is_no_key(self.key.text), is_no_key(self.owner))
        self.belongs = type_.in_(layout.types_of(*kinds))
        self.counts = sa.and_(self.belongs, self._is_finished)
        self.unusable = sa.and_(
            self.belongs,
            sa.func.lower(sa.func.trim(generations.c.status)).in_(FINISHED),
            sa.or_(sa.not_(self._is_finished), self._has_no_key),
        )

    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        return [_finished(row) for row in rows]

    def page(
        self,
        connection: sa.Connection,
        selection: Selection,
        after: Place | None,
        limit: int,
        until: Place | None = None,
    ) -> list[ListedGeneration]:
        """Usable rows older than `after`, to `until`, newest first.

        Rows without a time are left out.
        """
        conditions = self._conditions(connection, selection, after)
        if conditions is None:
            return []
        # In SQL: a page that is not full is taken for the last.
        conditions += [self.belongs, sa.not_(self._has_no_key)]
        if until is not None:
            conditions.append(self.place >= place(until.changed_at, until.id))
        query = self._newest_first(self.select().where(*conditions)).limit(limit)
        return _listable(connection.execute(query).all())

    def place_behind(
        self, connection: sa.Connection, selection: Selection, after: Place | None, count: int
    ) -> Place | None:
        """Of the last of `count` rows older than `after`, whatever their words; None: fewer."""
        conditions = self._conditions(connection, replace(selection, words=None), after)
        if conditions is None:
            return None
        query = sa.select(self.time.label("at"), self.key.text.label("id")).where(*conditions)
        row = connection.execute(self._newest_first(query).offset(count - 1).limit(1)).first()
        return Place(row.at, row.id) if row else None

    def listed(self, connection: sa.Connection, ids: Iterable[str]) -> dict[str, ListedGeneration]:
        """Usable rows of any status, by id."""
        wanted = list(ids)
        found = {row.id: row for row in _listable(self.among(connection, wanted))}
        return self.key.as_asked(connection, wanted, found)

    def _newest_first(self, query: sa.Select) -> sa.Select:
        return query.order_by(self.time.desc(), self.key.text.desc())

    def _conditions(
        self, connection: sa.Connection, selection: Selection, after: Place | None
    ) -> list[sa.ColumnElement[bool]] | None:
        """None: no row can match."""
        conditions: list[sa.ColumnElement[bool]] = [self.time.is_not(None)]
        if after is not None:
            conditions.append(self.place < place(after.changed_at, after.id))
        if selection.user_id is not None:
            if not self.user.bindable(connection, [selection.user_id]):
                return None
            conditions.append(self.user.equals(connection, selection.user_id))
        if selection.kind is not None:
            conditions.append(self._of_kind[selection.kind])
        if selection.finished is not None:
            is_finished = self._is_finished
            conditions.append(is_finished if selection.finished else sa.not_(is_finished))
        if selection.ids is not None:
            ids = self.key.bindable(connection, selection.ids)
            conditions.append(self.key.among(connection, ids))
        if selection.words is not None:
            begins = self.key.text.regexp_match(f"^{pattern_of(selection.words)}")
            conditions.append(
                sa.or_(begins, has_words(selection.words, *self._titles, address=self.source))
            )
        return conditions


def fingerprint(row: Generation, recipe: str) -> str:
    """A hash of what the derivative is made from, and how; as `fingerprint_of` in SQL."""
    text = f"{recipe}\n{row.user_id}\n{row.asset_url}"
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint_of(recipe: str, source: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """`fingerprint` of each row of the table."""
    parts = (as_text(generations.c.user_id), sa.func.coalesce(source, ""))
    return sha256_of(sa.func.concat_ws("\n", recipe, *parts))


def _finished(row: sa.Row) -> Generation | UnusableRow:
    if row.status not in FINISHED:
        expected = f"finished rows have {', '.join(FINISHED)}, in lower case"
        return UnusableRow(row.id, f"status is {row.status!r}: {expected}")
    listed = _listed(row)
    return listed.generation() if isinstance(listed, ListedGeneration) else listed


def _listable(rows: Iterable[sa.Row]) -> list[ListedGeneration]:
    return [row for row in map(_listed, rows) if isinstance(row, ListedGeneration)]


def _listed(row: sa.Row) -> ListedGeneration | UnusableRow:
    if row.kind is None:
        return UnusableRow(row.id, f"type is {row.type!r}, which LENS_TYPES does not name")
    problem = key_problem("id", row.id) or key_problem("user_id", row.user_id or "")
    if problem:
        return UnusableRow(row.id, problem)
    asset_url = row.asset_url or ""
    title = title_of(row.id, row.title, asset_url)
    values = (row.status, asset_url, row.created_at, row.changed_at, title)
    return ListedGeneration(row.id, row.user_id, Kind(row.kind), *values)
