"""The rules and the dashboard; that their metrics exist is tested where all of the app runs."""

import shutil
import subprocess

import yaml

from lens_pipeline_tests.deploy.prometheus_files import (
    RULE_TESTS,
    metrics_used,
    panels,
    rules,
)


def test_each_rule_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert "for" in rule, rule["alert"]


def test_each_rule_is_tried_firing_and_at_rest() -> None:
    """A rule that never fires. Promtool checks it where Prometheus is installed."""
    cases = [
        case
        for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names
    promtool = shutil.which("promtool")
    if promtool:
        done = subprocess.run(
            [promtool, "test", "rules", RULE_TESTS.name],
            cwd=RULE_TESTS.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in panels()]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert all(panel["targets"] for panel in panels())
    assert len(metrics_used()) > 10
