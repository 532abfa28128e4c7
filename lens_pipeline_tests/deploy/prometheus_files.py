"""What `deploy/` has for Prometheus and Grafana."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
RULE_TESTS = DEPLOY / "prometheus" / "alerts_test.yml"
_DASHBOARD = DEPLOY / "grafana" / "lens-pipeline.json"
_METRIC = re.compile(r"\blens_[a-z0-9_]+")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def panels() -> list[dict[str, Any]]:
    return json.loads(_DASHBOARD.read_text())["panels"]


def metrics_used() -> set[str]:
    """The samples that rules and panels read."""
    expressions = [rule["expr"] for rule in rules()]
    expressions += [target["expr"] for panel in panels() for target in panel["targets"]]
    return {name for expression in expressions for name in _METRIC.findall(expression)}
