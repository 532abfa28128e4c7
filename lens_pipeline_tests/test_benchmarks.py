"""What the README says was measured."""

import json

from benchmarks.__main__ import AT_LEAST, AT_MOST, RESULTS, verdict


def test_every_figure_with_a_target_was_measured_and_meets_it() -> None:
    """A figure in the README of which `results.json` knew nothing."""
    measured = json.loads(RESULTS.read_text())
    targets = AT_LEAST | AT_MOST
    assert targets.keys() - measured.keys() == set()
    assert [key for key in targets if verdict(key, measured[key]) == "MISSED"] == []
