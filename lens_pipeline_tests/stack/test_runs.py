"""The whole stack at work: from a row to a preview, and runs that people start and stop."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.stack import SELECTOR, Stack

pytestmark = [pytest.mark.slow, pytest.mark.stack]

BATCH = 4
BACKFILLED = [f"b{number:02}" for number in range(10)]
DELETED = "bye"


@pytest.fixture(scope="module")
def sources_server() -> Iterator[HostileServer]:
    with HostileServer() as started:
        yield started


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack") / "home"
    with Stack(home, LENS_BATCH_SIZE=str(BATCH), LENS_FETCH_TIMEOUT_SECONDS="600") as stack:
        yield stack


@pytest.fixture(scope="module", autouse=True)
def backfill(stack: Stack, sources_server: HostileServer) -> str:
    """A backfill started from the UI for previews that have been lost, one without a row; its id.

    Started first, because Dagster looks for new ones every half minute.
    """
    rows = stack.site
    names = [*BACKFILLED, DELETED]
    for name in names:
        rows.add(name, sources_server.put(f"/{name}.jpg", sources.jpeg()))
    eventually(
        lambda: all(stack.states().get(name) == "ready" for name in names), 40, "the previews"
    )
    for path in rows.store.glob("u1/previews/b*"):
        path.unlink()
    backfill = stack.launch_backfill("preview", names)
    rows.sql("DELETE FROM generations WHERE id = :id", id=DELETED)
    # A run of it may have begun: then it is left for later.
    stack.lens("remove-missing", "--yes")
    return backfill


@pytest.fixture
def rows(stack: Stack, tmp_path: Path) -> Site:
    return stack.site


@pytest.fixture
def url(sources_server: HostileServer) -> Callable[[str], str]:
    def put(name: str) -> str:
        return sources_server.put(f"/{name}.jpg", sources.jpeg())

    return put


def test_a_new_row_is_ready_within_seconds(
    stack: Stack, rows: Site, url: Callable[[str], str]
) -> None:
    """A pipeline that is slower than the polling loop it replaces."""
    rows.add("new", url("new"))
    eventually(lambda: stack.states().get("new") == "ready", 20, "the preview")
    assert "u1/previews/new_preview.webp" in rows.objects()
    answer = stack.graphql(
        """{ assetNodeOrError(assetKey: {path: ["preview"]}) { ... on AssetNode {
             assetMaterializations(partitions: ["new"]) { metadataEntries { label } runId } } } }"""
    )["assetNodeOrError"]["assetMaterializations"]
    (event,) = answer
    assert {"path", "image", "latency_seconds"} <= {e["label"] for e in event["metadataEntries"]}
    tags = {tag["key"]: tag["value"] for tag in stack.run(event["runId"])["tags"]}
    assert tags["lens/origin"] == "sensor"


def test_a_page_of_another_site_cannot_start_runs(stack: Stack) -> None:
    """A page of another site whose image address starts runs here."""
    query = urlencode({"query": 'mutation { terminateRun(runId: "x") { __typename } }'})
    with pytest.raises(HTTPError) as e:
        urlopen(f"http://127.0.0.1:{stack.port}/graphql?{query}", timeout=30)
    assert e.value.code == 403


def test_a_partition_launched_from_the_ui_is_made_again(
    stack: Stack, rows: Site, url: Callable[[str], str]
) -> None:
    """A preview that is asked for again, and is not made because it was made before."""
    rows.add("again", url("again"))
    eventually(lambda: stack.states().get("again") == "ready", 20, "the preview")
    (rows.store / "u1/previews/again_preview.webp").unlink()
    run_id = _launch(stack, "again")
    eventually(lambda: stack.run(run_id)["status"] == "SUCCESS", 20, "the run")
    assert "u1/previews/again_preview.webp" in rows.objects()
    tags = {tag["key"]: tag["value"] for tag in stack.run(run_id)["tags"]}
    assert tags["dagster-celery/queue"] == "previews"
    assert float(tags["dagster/max_runtime"]) > 7200


def test_a_cancelled_run_ends_as_canceled_and_stays_so(
    stack: Stack, rows: Site, sources_server: HostileServer
) -> None:
    """A run that cannot be stopped, or that is started again after it was cancelled."""
    rows.add("hanging", sources_server.url("/slow-body"))
    eventually(lambda: sources_server.requests["/slow-body"], 20, "the download")
    (run,) = _runs(stack, "STARTED")
    answer = stack.graphql(
        """mutation ($id: String!) { terminateRun(runId: $id) { __typename
             ... on PythonError { message } } }""",
        {"id": run},
    )["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess", answer
    eventually(lambda: stack.run(run)["status"] == "CANCELED", 15, "the cancellation")
    eventually(lambda: not stack.unfinished(), 10, "the clean-up")

    stack.tick_backfill()
    assert stack.states()["hanging"] == "dead"
    assert not _runs(stack, "QUEUED", "STARTING", "STARTED")
    assert sources_server.requests["/slow-body"] == 1
    shown = stack.lens("status", "hanging").stdout
    assert "dead" in shown and "cancelled" in shown, shown


def test_a_cancelled_remake_leaves_ready_previews_ready(
    stack: Stack, rows: Site, sources_server: HostileServer
) -> None:
    """A preview that is there, and counts as dead because a second run was cancelled."""
    path = "/hangs"
    rows.add("kept", sources_server.put(path, sources.jpeg()))
    eventually(lambda: stack.states().get("kept") == "ready", 20, "the preview")
    sources_server.remove(path)
    # Else it would be made from what is kept.
    (original,) = eventually(lambda: list(rows.store.glob("u1/originals/kept_*")), 20, "it")
    original.unlink()
    run_id = _launch(stack, "kept")
    eventually(lambda: sources_server.requests[path] == 2, 20, "the download")
    stack.graphql(
        "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }", {"id": run_id}
    )
    eventually(lambda: stack.run(run_id)["status"] == "CANCELED", 15, "the cancellation")
    assert stack.states()["kept"] == "ready"


def test_a_retry_from_the_command_line_is_worked_off_by_the_stack(
    stack: Stack, rows: Site, sources_server: HostileServer
) -> None:
    """`lens retry` that waits for the next backfill, or needs the stack to be stopped."""
    path = "/late.jpg"
    rows.add("late", sources_server.url(path))
    eventually(lambda: stack.states().get("late") == "dead", 30, "the failure")
    sources_server.put(path, sources.jpeg())
    retried = stack.lens("retry", "late", "--json")
    assert retried.returncode == 0, retried.stderr
    eventually(lambda: stack.states()["late"] == "ready", 20, "the second attempt")


def test_the_status_of_a_running_stack_is_told_by_the_command_line(
    stack: Stack, rows: Site, url: Callable[[str], str]
) -> None:
    """A command that starts a second database beside the one that runs."""
    rows.add("told", url("told"))
    eventually(lambda: stack.states().get("told") == "ready", 20, "the preview")
    shown = stack.lens("status", "told")
    assert shown.stdout.strip() == "told preview ready u1/previews/told_preview.webp"


def test_a_backfill_of_selected_partitions_runs_in_batches(
    stack: Stack, rows: Site, backfill: str
) -> None:
    """One run for each of a thousand files, or one for all; or none, as one row is deleted."""

    def status() -> Any:
        return stack.graphql(
            """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
                 ... on PartitionBackfill { status } } }""",
            {"id": backfill},
        )["partitionBackfillOrError"]["status"]

    eventually(lambda: status() not in {"REQUESTED", "FAILING"}, 90, "the backfill")
    assert status() == "COMPLETED_FAILED"  # of one there is no row
    runs = stack.graphql(
        """query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs {
             results { status assetMaterializations { partition } } } } }""",
        {"filter": {"tags": [{"key": "dagster/backfill", "value": backfill}]}},
    )["runsOrError"]["results"]
    assert Counter(run["status"] for run in runs) == {"SUCCESS": 2, "FAILURE": 1}
    assert sorted(len(run["assetMaterializations"]) for run in runs) == [2, BATCH, BATCH]
    made = Counter(m["partition"] for run in runs for m in run["assetMaterializations"])
    assert made == dict.fromkeys(BACKFILLED, 1)
    assert len(list(rows.store.glob("u1/previews/b*"))) == len(BACKFILLED)


def _launch(stack: Stack, partition: str) -> str:
    """Materialize one partition as the UI's button does; the run's id."""
    launched = stack.graphql(
        """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
             __typename ... on LaunchRunSuccess { run { runId } }
             ... on PythonError { message } } }""",
        {
            "params": {
                "selector": {
                    **SELECTOR,
                    "jobName": "__ASSET_JOB",
                    "assetSelection": [{"path": ["preview"]}],
                },
                "mode": "default",
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
            }
        },
    )["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return launched["run"]["runId"]


def _runs(stack: Stack, *statuses: str) -> list[str]:
    found = stack.graphql(
        """query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs {
             results { runId } } } }""",
        {"filter": {"statuses": list(statuses)}},
    )["runsOrError"]["results"]
    return [run["runId"] for run in found]
