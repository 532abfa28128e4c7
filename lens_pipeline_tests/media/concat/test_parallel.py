"""Tasks side by side, and the share that they report together."""

from pathlib import Path

from lens_pipeline.media.concat.parallel import run_all
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline_tests.media.concat.shots import work_in


def test_a_long_task_counts_more_than_a_short_one(tmp_path: Path) -> None:
    """A bar at 90 % for most of the time, since one shot of ten lasts longer than the others."""
    said: list[tuple[str, float]] = []

    def short(work: Work) -> str:
        work.report("short", 0.5)
        return "short"

    def long(work: Work) -> str:
        work.report("long", 0.5)
        work.report("check of long", 0.1)
        return "long"

    work = work_in(tmp_path / "work", report=lambda stage, share: said.append((stage, share)))
    assert run_all([short], work) == ["short"]
    assert run_all([long, short], work, [30.0, 10.0]) == ["long", "short"]
    assert said[0] == ("short", 0.5)
    # The short one may not have begun, be half done or be done.
    (long_share,) = [share for stage, share in said if stage == "long"]
    assert long_share in (0.375, 0.5, 0.625)
    # A later stage of a task takes nothing back.
    (check_share,) = [share for stage, share in said if stage == "check of long"]
    assert check_share >= long_share
