"""A short bad day of the whole stack; `make chaos` has longer ones."""

from pathlib import Path

import pytest

from lens_pipeline_tests.chaos.run import Plan, run

pytestmark = [pytest.mark.slow, pytest.mark.stack, pytest.mark.timeout(900)]

PLAN = Plan(seed=1, minutes=0.4, fault_seconds=2, rows_per_second=2, patience_seconds=0)


def test_every_rule_holds_after_a_bad_half_minute(tmp_path: Path) -> None:
    """Lost rows, torn files, leftovers: whatever only several faults at once bring about."""
    # What is printed is shown of a test that fails, however it does.
    verdict = run(PLAN, tmp_path / "chaos", print)
    assert verdict.violations == []
    # One of each kind; only root can fill a disk.
    assert verdict.figures["faults"] >= 9
    assert verdict.figures["files_made"] >= 10
