"""Orders: several formats and fragments of one master at once."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import dagster as dg
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import ENLARGED, Fill, Kind, MasterVideo, ScaledVideo
from lens_pipeline.derivatives import orders
from lens_pipeline.derivatives.orders import Film, InvalidOrder, Order, Piece
from lens_pipeline.derivatives.registry import MASTER, SCALED
from lens_pipeline.derivatives.status import row_statuses
from lens_pipeline.errors import InvalidRow
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.web.auth.caller import CallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, Problem
from lens_pipeline.web.routes.masters import MasterDep
from lens_pipeline.web.routes.project_rows import Key, Wanted, invalid, require_writable
from lens_pipeline.web.routes.renditions import ScaledOut, Seconds, described

router = APIRouter(
    prefix="/api/projects/{project_id}/master-videos/{master_id}/renditions",
    tags=["scaled videos"],
)

# What JavaScript's numbers hold exactly.
_LARGEST_SEED = 2**53 - 1
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class NewOrder(Wanted):
    """Formats, and fragments, of one master."""

    formats: list[str]
    """16:9, 9:16, 1:1, 4:5, or a size such as 1280x720."""
    fill: Literal["blur", "black", "crop"] | None = None
    """What is where the film's shape leaves a format free; None: blur, where the table has it."""
    focus: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    """What a crop keeps, as shares of the film's width and height; None: the centre."""
    start: Seconds | None = None
    end: Seconds | None = None
    count: int | None = None
    """Fragments of each format; None: the part from start to end as a whole."""
    length: Annotated[list[Seconds], Field(min_length=2, max_length=2)] | None = None
    """Seconds of the shortest and the longest fragment; None: 15 and 30."""
    seed: Annotated[int, Field(ge=0, le=_LARGEST_SEED)] | None = None
    """Fragments with the same seed have the same places; None: it follows from the order's id."""
    enlarge: bool = False
    """Whether a film that is smaller than a format is enlarged; else the format gets smaller."""
    order_id: Key | None = None
    """Makes the request safe to repeat."""


class OrderOut(BaseModel):
    """An order, and where its pieces stand: by time, then by format."""

    order_id: str
    master_id: str
    seed: int
    scaled_videos: list[ScaledOut]
    notes: list[str]
    """What is to be said of formats, in English: for example, that there is nothing to blur."""


@router.post("", status_code=201, responses={200: {"model": OrderOut}, 409: {"model": Problem}})
def create_order(
    listed: MasterDep, wanted: NewOrder, caller: CallerDep, context: ContextDep, response: Response
) -> OrderOut:
    """Order formats and fragments of a master; they are begun at once if it is ready.

    Asked for again with the same `order_id`, nothing happens: 200 with its pieces.
    """
    require_writable(caller, listed.project_id)
    order, is_new = place_order(context, listed, wanted)
    if not is_new:
        response.status_code = 200
    return order


def place_order(
    context: Context, master: Listed[MasterVideo], wanted: NewOrder
) -> tuple[OrderOut, bool]:
    """The order, and whether it is new. Raises ApiError 400; 409: its id is another order's."""
    made = row_statuses(context.pipeline, MASTER, [master.row])[master.row.id]
    order_id = wanted.order_id or str(uuid.uuid4())
    seed = orders.seed_of(order_id) if wanted.seed is None else wanted.seed
    fill = _fill(context, wanted)
    film = _film(made)
    pieces = _plan(wanted, seed, film, made)
    focus = (wanted.focus[0], wanted.focus[1]) if wanted.focus else None
    rows = [
        _values(master.row.id, order_id, piece, fill, focus, is_enlarged=wanted.enlarge)
        for piece in pieces
    ]
    # One more: an order of these formats and others is another one.
    ids = orders.piece_ids(master.project_id, order_id, len(rows) + 1)
    is_new = False
    found = _known_pieces(context, master, ids)
    if not found:
        new = dict(zip(ids[:-1], rows, strict=True))
        is_new = _insert(context, master.project_id, new, begins=made.state is State.READY)
        found = _known_pieces(context, master, ids)
    if not is_new and [_values_of(one.row, order_id) for one in found] != rows:
        reason = "this order_id belongs to another order, or to one whose renditions are deleted"
        raise ApiError(409, "id_taken", reason)
    out = OrderOut(
        order_id=order_id,
        master_id=master.row.id,
        seed=seed,
        scaled_videos=described(context, found),
        notes=_notes(wanted, fill, film),
    )
    return out, is_new


def _fill(context: Context, wanted: NewOrder) -> Fill:
    fill = Fill(wanted.fill or "blur")
    if wanted.focus is not None and fill is not Fill.CROP:
        raise invalid("focus", "focus says what a crop keeps: leave it out, or ask for fill crop")
    lack = context.pipeline.catalog.lack_of_fills()
    if lack is None:
        return fill
    if wanted.fill not in (None, "black") or wanted.enlarge:
        raise invalid("fill", f"only black bars can be had: {lack}", "no_fills")
    return Fill.BLACK


def _film(made: DerivativeStatus) -> Film | None:
    facts = [made.fact(name, int) for name in ("width", "height")]
    seconds = made.fact("duration_seconds", float) or made.fact("duration_seconds", int)
    width, height = facts
    if made.state is not State.READY or not (seconds and width and height):
        return None
    joins = [float(one) for one in made.fact("joins", list) or []]
    return Film(float(seconds), width, height, joins)


def _plan(
    wanted: NewOrder, seed: int, film: Film | None, made: DerivativeStatus
) -> Sequence[Piece]:
    length = (wanted.length[0], wanted.length[1]) if wanted.length else None
    order = Order(wanted.formats, wanted.start, wanted.end, wanted.count, length, seed)
    try:
        return orders.plan(order, film)
    except InvalidOrder as error:
        reason, status = str(error), 400
        if error.code == "master_not_ready":
            reason, status = f"{reason} ({made.waits or made.error or made.state})", 409
        raise ApiError(status, error.code, reason, field=error.field) from None


def _values(
    master_id: str,
    order_id: str,
    piece: Piece,
    fill: Fill,
    focus: tuple[float, float] | None,
    *,
    is_enlarged: bool,
) -> dict[str, Any]:
    return {
        "master_id": master_id,
        "start_seconds": piece.start,
        "end_seconds": piece.end,
        "width": piece.width,
        "height": piece.height,
        "fill": fill.value + (ENLARGED if is_enlarged else ""),
        "focus": ",".join(f"{share:.4f}" for share in focus) if focus else None,
        "order_id": order_id,
    }


def _values_of(row: ScaledVideo, order_id: str) -> dict[str, Any]:
    """A host's table need not have a column for `order_id`."""
    piece = Piece("", row.width, row.height, row.start_seconds, row.end_seconds)
    fill = row.fill or Fill.BLACK
    return _values(row.master_id, order_id, piece, fill, row.focus, is_enlarged=row.enlarged)


def _insert(
    context: Context, project_id: str, new: dict[str, dict[str, Any]], *, begins: bool
) -> bool:
    """All pieces or none; their runs are prepared before a sensor sees the rows."""
    runs: list[dg.DagsterRun] = []
    try:
        with context.pipeline.catalog.inserting(Kind.SCALED, project_id, new) as added:
            if added and begins:
                runs = context.queue.prepare({SCALED: list(new)}, "api", owner=project_id)
    except InvalidRow as error:
        raise invalid("body", str(error)) from None
    except BaseException:
        context.queue.discard(runs)
        raise
    context.queue.release(runs)
    return added


def _known_pieces(
    context: Context, master: Listed[MasterVideo], ids: Sequence[str]
) -> list[Listed[ScaledVideo]]:
    found = context.pipeline.catalog.project_rows(Kind.SCALED, master.project_id, ids)
    return [found[one] for one in ids if one in found]


def _notes(wanted: NewOrder, fill: Fill, film: Film | None) -> list[str]:
    """Of formats that have the film's shape."""
    if film is None or fill is Fill.BLACK:
        return []
    what = "to blur" if fill is Fill.BLUR else "to crop"
    return [
        f"{name}: the film has this shape, so there is nothing {what}"
        for name, (width, height) in ((n, orders.size_of(n)) for n in dict.fromkeys(wanted.formats))
        if abs(film.width * height - film.height * width) <= max(width, height)
    ]
