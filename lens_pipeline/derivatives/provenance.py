"""What IPTC calls the digital source type of a row's files."""

from collections.abc import Sequence

from lens_pipeline.catalog.rows import Generation, MasterVideo, Row, ScaledVideo, Shot
from lens_pipeline.settings import Settings

# Of what was generated and what was not, in one film.
_MIXED = "compositeWithTrainedAlgorithmicMedia"


def source_type(row: Row | Shot, settings: Settings) -> str | None:
    """None: its files tell nothing of it, as people uploaded what they are made from."""
    generated = settings.digital_source_type
    if generated == "off":
        return None
    match row:
        case Generation() | Shot(generation_id=str()):
            return generated
        case MasterVideo():
            return _of_shots(row.shots, generated)
        case ScaledVideo(master=MasterVideo() as master):
            return _of_shots(master.shots, generated)
        case _:
            return None


def _of_shots(shots: Sequence[Shot], generated: str) -> str | None:
    origins = {shot.generation_id is not None for shot in shots}
    if origins == {True}:
        return generated
    return _MIXED if True in origins else None
