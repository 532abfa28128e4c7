"""Percent and time left of long work, by a clock of the test's own."""

from lens_pipeline.defs.assets.progress import ProgressEstimate
from lens_pipeline.event_log.history import ReportedProgress, Stage


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_percent_rises_over_all_stages() -> None:
    estimate = ProgressEstimate()
    stages = [
        ("checking shot 1 of 2", 0.0),
        ("encoding shot a", 0.5),
        # Part of the encoding.
        ("checking encoded shot a", 0.5),
        ("encoding shot b", 1.0),
        # A second attempt after a check has failed.
        ("encoding shot a", 0.0),
        ("joining", 0.0),
        ("verifying", 1.0),
    ]
    said = [estimate.at(*stage) for stage in stages]
    assert [one.percent for one in said] == [5, 55, 55, 90, 90, 95, 98]
    assert [one.stage for one in said[1:4]] == [Stage.ENCODING] * 3


def test_the_time_left_follows_from_the_pace() -> None:
    """A film of which half came from the cache at once, and of which the rest is encoded."""
    clock = _Clock()
    estimate = ProgressEstimate(clock)
    assert estimate.at("encoding shot b", 0.5).seconds_left is None
    said: list[ReportedProgress] = []
    for second in range(1, 101):
        clock.now = second
        said.append(estimate.at("encoding shot b", 0.5 + second / 200))
    # Too early to tell.
    assert said[1].seconds_left is None
    for second, one in enumerate(said[11:90], 12):
        assert one.seconds_left is not None
        # With what comes after the encoding.
        assert 100 - second <= one.seconds_left <= 130 - second
    assert said[49].text == f"72 %: encoding shot b, about {said[49].seconds_left} s left"
    clock.now = 105
    left = estimate.at("joining", 0.0).seconds_left
    assert left is not None and 0 < left <= 25
    # Nobody knows how long it takes now.
    clock.now = 1000
    assert estimate.at("storing", 0.0).seconds_left is None


def test_tags_that_people_set_do_no_harm() -> None:
    progress = ReportedProgress("72 %: encoding", 72, Stage.ENCODING, 40)
    assert ReportedProgress.of(progress.tags) == progress
    odd = dict.fromkeys(progress.tags, "most")
    assert ReportedProgress.of(odd) == ReportedProgress("most", None)
