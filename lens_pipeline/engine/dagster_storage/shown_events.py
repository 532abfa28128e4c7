"""How events are stored and read so that Dagster's UI shows each of them, and why a file failed."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from dagster import DagsterEvent, EventLogEntry, EventLogRecord, JsonMetadataValue, MetadataValue
from dagster._core.definitions.events import (
    AssetMaterializationFailure,
    AssetMaterializationFailureReason,
    AssetMaterializationFailureType,
)

from lens_pipeline.event_log.history import ObservationKind
from lens_pipeline.event_log.tags import EXTRA_TAG, OUTCOME_TAG

# The UI shows one of a run's events that share a millisecond.
_APART_SECONDS = 0.0011
# Timestamps differ by at most this from the time of their event.
_MOST_SECONDS = 1.0


def apart(events: Sequence[EventLogEntry], latest: float) -> list[EventLogEntry]:
    """Give each event a millisecond of its own, after `latest`, the last one that was given."""
    spread = []
    for event in events:
        free = latest + _APART_SECONDS
        is_taken = event.timestamp < free < event.timestamp + _MOST_SECONDS
        latest = free if is_taken else event.timestamp
        spread.append(event._replace(timestamp=latest))
    return spread


def failures(observations: Sequence[EventLogRecord]) -> list[EventLogRecord]:
    """The observations of failed files, as events that the UI shows as failures."""
    return [
        record._replace(event_log_entry=record.event_log_entry._replace(dagster_event=failure))
        for record in observations
        if (failure := _failure(record.event_log_entry.get_dagster_event()))
    ]


def with_hosts(observation: EventLogRecord) -> EventLogRecord:
    """Without the rest of the addresses of further results, which may hold secrets."""
    entry = observation.event_log_entry
    event = entry.get_dagster_event()
    data = event.asset_observation_data
    shown = data.asset_observation
    urls = shown.metadata.get("extra_urls")
    if EXTRA_TAG not in shown.tags or not isinstance(urls, JsonMetadataValue):
        return observation
    hosts = [urlsplit(str(url)).hostname for url in urls.data or []]
    metadata = {**shown.metadata, "extra_urls": MetadataValue.json(hosts)}
    data = data._replace(asset_observation=shown._replace(metadata=metadata))
    event = event._replace(event_specific_data=data)
    return observation._replace(event_log_entry=entry._replace(dagster_event=event))


def _failure(event: DagsterEvent) -> DagsterEvent | None:
    observation = event.asset_observation_data.asset_observation
    if observation.tags.get(OUTCOME_TAG) != ObservationKind.FAILED.value:
        return None
    error = observation.metadata.get("error")
    failure = AssetMaterializationFailure(
        observation.asset_key,
        AssetMaterializationFailureType.FAILED,
        AssetMaterializationFailureReason.FAILED_TO_MATERIALIZE,
        description=str(error.value) if error else None,
        metadata=observation.metadata,
        partition=observation.partition,
        tags=observation.tags,
    )
    return DagsterEvent.build_asset_failed_to_materialize_event(
        event.job_name, event.step_key, failure
    )
