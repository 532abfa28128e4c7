"""The Helm chart, rendered and checked against Kubernetes' own schemas; no cluster is needed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmError, lint

from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.engine.instance import LOCATION
from lens_pipeline.engine.liveness import CHECKS
from lens_pipeline.settings import load
from lens_pipeline.supervisor.roles import ROLES

HELM = Path(__file__).parents[2] / "deploy" / "helm"
KUBERNETES = "1.31"
CANCEL_SECONDS = 20
# Of Helm's lint: an icon is recommended.
_INFORMATION = 1
# What the Secret must have at least.
SECRET = {
    "LENS_DATABASE_URL": "postgresql://lens:secret@db:5432/lens",
    "LENS_BROKER_URL": "redis://:secret@valkey:6379/0",
    "LENS_STORE_URL": "s3://lens",
    "LENS_API_TOKEN": "0123456789abcdef",
}


def rendered(**values: Any) -> list[dict[str, Any]]:
    with Chart.load(HELM / "lens") as chart:
        files = chart.render(values=values, name="lens", namespace="media")
    return [
        document
        for name, text in files.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each pod's name without the release's, and its specification."""
    for document in documents:
        if document["kind"] in ("Deployment", "Job"):
            name = document["metadata"]["name"].removeprefix("lens-")
            yield name, document["spec"]["template"]["spec"]


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    own = {entry["name"]: entry["value"] for entry in container["env"]}
    return SECRET | {name: value for name, value in own.items() if name.startswith("LENS_")}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "api": {"replicas": 1},
            "networkPolicy": {"enabled": False},
            "image": {"repository": "registry.example.com/lens", "tag": "1"},
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "media", "operator": "Exists"}],
        },
    ],
    ids=["as it is", "with other values"],
)
def test_what_is_rendered_is_what_kubernetes_takes(values: dict[str, Any]) -> None:
    """A misspelt field, which a cluster drops without a word."""
    found = lint(HELM / "lens", values, strict=True)
    assert found["errors"] == []
    assert [m for m in found["messages"] if m["severity"] > _INFORMATION] == []
    documents = rendered(**values)
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert {name for name, _ in pods(documents)} == {
        *("code", "api", "migrate"),
        *(f"worker-{queue}" for queue in QUEUES),
    }


def test_pods_run_what_there_is_with_valid_settings_and_no_rights() -> None:
    """A pod that ends at once; one that is killed in the grace of its runs."""
    for name, pod in pods(rendered(graceSeconds=120)):
        (container,) = pod["containers"]
        settings, _ = load(environment(container), dotenv=None)
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        command, *rest = container["args"]
        assert command in ("run", "worker", "migrate")
        if command == "run":
            assert rest[0] in ROLES
        if command == "worker":
            assert rest[1] in QUEUES
            assert pod["terminationGracePeriodSeconds"] >= settings.grace_seconds + CANCEL_SECONDS
        probe = container.get("livenessProbe", {}).get("exec")
        if probe:
            assert probe["command"] == ["lens", "health", name]
            assert name in CHECKS


def test_workers_can_be_as_many_as_there_is_work() -> None:
    """An autoscaler of another deployment, or whose number each upgrade undoes."""
    documents = rendered(workers={queue: {"replicas": None} for queue in QUEUES})
    deployments = {d["metadata"]["name"]: d for d in documents if d["kind"] == "Deployment"}
    scalers = list(yaml.safe_load_all((HELM / "keda.yaml").read_text()))
    assert {one["spec"]["scaleTargetRef"]["name"] for one in scalers} == {
        f"lens-worker-{queue}" for queue in QUEUES
    }
    for scaler in scalers:
        spec, name = scaler["spec"], scaler["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in deployments[name]["spec"]
        assert "fallback" not in spec  # it overrides the CPU trigger
        queue = name.removeprefix("lens-worker-")
        assert (
            spec["triggers"][0]["metadata"]["query"] == f'max(lens_queue_depth{{queue="{queue}"}})'
        )
        # What KEDA makes of it.
        autoscaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": spec["minReplicaCount"],
                "maxReplicas": spec["maxReplicaCount"],
                **spec["advanced"]["horizontalPodAutoscalerConfig"],
            },
        }
        kubernetes_validate.validate(autoscaler, KUBERNETES, strict=True)


def test_a_misspelt_value_is_refused() -> None:
    """`worker:` for `workers:`, and a site with half of its workers."""
    with pytest.raises(HelmError, match=r"(?i)additional propert"):
        rendered(worker={"previews": {"replicas": 9}})


def test_dagsters_chart_is_told_of_our_code_and_of_valid_settings() -> None:
    """Runs that belong to a code location which does not exist."""
    values = yaml.safe_load((HELM / "dagster-values.yaml").read_text())
    web, daemon = values["dagsterWebserver"], values["dagsterDaemon"]
    (server,) = web["workspace"]["servers"]
    services = {d["metadata"]["name"]: d for d in rendered() if d["kind"] == "Service"}
    assert server["name"] == LOCATION
    assert server["port"] in [port["port"] for port in services[server["host"]]["spec"]["ports"]]
    for process in (web, daemon):
        settings, _ = load(environment(process), dotenv=None)
        assert (settings.code_host, settings.code_port) == (server["host"], server["port"])
    assert load(environment(web), dotenv=None)[0].dagster_port == web["service"]["port"]
    command = (HELM / "bin" / "dagster-daemon").read_text()
    assert "exec lens run daemon" in command
