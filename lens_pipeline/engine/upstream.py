"""Every private name of Dagster that this product uses, and why. No public names.

Another version of Dagster fails here, at the start and in one line.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from operator import attrgetter

from lens_pipeline.core.endpoints import StackError


class UnknownDagster(StackError):
    """The installed Dagster lacks a private name or has other parameters."""


# Names by module, with the parameters that we rely on; Dagster may have other optional ones.
# A process checks the groups that it imports anyway.
_STORAGE = {
    "dagster._core.definitions.events": {
        "AssetMaterializationFailure(asset_key, failure_type, reason, description, metadata,"
        " partition, tags)": "shows failed files",
        "AssetMaterializationFailureReason.FAILED_TO_MATERIALIZE": "shows failed files",
        "AssetMaterializationFailureType.FAILED": "shows failed files",
    },
    "dagster._core.errors": {"DagsterUserCodeProcessError": "failures without a stack"},
    "dagster._core.events": {
        "ASSET_CHECK_EVENTS": "their results have a table of their own",
        "ASSET_EVENTS": "an asset's event is stored with its tags",
        "DagsterEvent.build_asset_failed_to_materialize_event"
        "(job_name, step_key, asset_materialization_failure)": "shows failed files",
        "DagsterEventBatchMetadata(id, is_end)": "many events in one insert",
        "JobFailureData(error, failure_reason)": "the last event of a lost run",
        "RunFailureReason.UNEXPECTED_TERMINATION": "the last event of a lost run",
        "StepMaterializationData(materialization)": "materializations without a run",
        "generate_event_batch_id()": "many events in one insert",
    },
    "dagster._core.instance.utils": {
        "RUNLESS_JOB_NAME": "materializations without a run",
        "RUNLESS_RUN_ID": "materializations without a run, and their pruning",
    },
    "dagster._core.remote_origin": {
        "RemoteRepositoryOrigin.get_instigator_origin(instigator_name)": "schedules of 0.3",
    },
    "dagster._core.scheduler.instigation": {
        "InstigatorState.is_running": "schedules of 0.3",
        "InstigatorType.SCHEDULE": "schedules of 0.3",
        "TickStatus": "whose ticks are purged",
    },
    "dagster._core.storage.defs_state.base": {
        "DEFS_STATE_INFO_CURSOR_KEY": "definitions load without a database",
    },
    "dagster._core.storage.event_log": {
        "DynamicPartitionsTable.c.partition": "reads only keys that are new",
        "SqlEventLogStorageTable.c.id": "many events in one insert",
    },
    "dagster._core.storage.event_log.schema": {
        "AssetEventTagsTable.c.event_id": "pruning",
        "SqlEventLogStorageTable.c.partition": "pruning",
    },
    "dagster._core.storage.noop_compute_log_manager": {
        "NoOpComputeLogManager": "named in dagster.yaml",
    },
    "dagster._core.storage.runs.schema": {"RunsTable.c.status": "pruning"},
    "dagster._serdes": {"ConfigurableClassData": "makes the classes of dagster.yaml"},
    "dagster_shared.error": {
        "SerializableErrorInfo(message, stack, cls_name)": "failures without a stack",
    },
    "dagster_postgres": {
        "DagsterPostgresStorage(postgres_url, should_autocreate_tables, inst_data)": "one pool",
        "DagsterPostgresStorage.from_config_value(inst_data, config_value)": "our settings",
        "PostgresEventLogStorage._instance": "observes files of deleted runs",
        "PostgresEventLogStorage._event_to_row(event)": "many events in one insert",
        "PostgresEventLogStorage._store_asset_event(conn, event, event_id)": "in one transaction",
        "PostgresEventLogStorage._store_asset_event_tags(conn, events, event_ids)": "in the same",
        "PostgresEventLogStorage.delete_events(run_id)": "observes files of deleted runs",
        "PostgresEventLogStorage.fetch_failed_materializations"
        "(records_filter, limit, cursor, ascending)": "shows failed files",
        "PostgresEventLogStorage.fetch_observations"
        "(records_filter, limit, cursor, ascending)": "shows failed files, and no secrets",
        "PostgresEventLogStorage"
        ".get_latest_asset_partition_materialization_attempts_without_materializations"
        "(asset_key, after_storage_id)": "what was up to date has not failed",
        "PostgresEventLogStorage.index_connection()": "for events of no asset, and tags of runs",
        "PostgresEventLogStorage.index_transaction()": "for events of assets",
        "PostgresEventLogStorage.store_asset_check_event(event, event_id)": "as the stock storage",
        "PostgresEventLogStorage.get_asset_tags_to_index(tag_keys)": "our tags are read by query",
        "PostgresEventLogStorage.has_table(table_name)": "asked once a process",
        "PostgresEventLogStorage.store_event_batch(events)": "many events in one insert",
        "PostgresRunStorage.handle_run_event(run_id, event, update_timestamp)": "wakes the daemon",
        "PostgresRunStorage.get_cursor_values(keys)": "definitions load without a database",
        "PostgresRunStorage.has_backfill_id_column()": "asked once a process",
        "PostgresRunStorage.has_run_stats_index_cols()": "asked once a process",
        **{
            f"Postgres{kind}Storage.optimize_for_webserver"
            "(statement_timeout, pool_recycle, max_overflow)": "keeps the one pool"
            for kind in ("EventLog", "Run", "Schedule")
        },
        "PostgresRunStorage.connect()": "for the notification",
        "PostgresScheduleStorage._has_instigators_table(conn)": "asked once a process",
        "PostgresScheduleStorage.has_built_index(migration_name)": "asked once a process",
        "PostgresScheduleStorage.has_secondary_index_table()": "asked once a process",
        "PostgresScheduleStorage.purge_ticks(origin_id, selector_id, before, tick_statuses)"
        "": "once a minute",
    },
}
_SUBMISSION = {
    "dagster._core.code_pointer": {"ModuleCodePointer": "where a worker finds the job"},
    "dagster._core.origin": {
        "DEFAULT_DAGSTER_ENTRY_POINT": "where a worker finds the job",
        "JobPythonOrigin(job_name, repository_origin)": "where a worker finds the job",
        "RepositoryPythonOrigin(executable_path, code_pointer, container_image, entry_point,"
        " container_context)": "where a worker finds the job",
    },
    "dagster._core.remote_origin": {
        "GrpcServerCodeLocationOrigin(host, port, location_name)": "where the daemon finds the job",
        "RemoteJobOrigin": "where the daemon finds the job",
        "RemoteRepositoryOrigin": "where the daemon finds the job",
    },
    "dagster._core.run_coordinator": {
        "QueuedRunCoordinator.submit_run(context)": "adds the tags of the Celery queue",
        "QueuedRunCoordinator(max_concurrent_runs, dequeue_interval_seconds, dequeue_use_threads,"
        " dequeue_num_workers, inst_data)": "our settings",
        "SubmitRunContext": "what a coordinator is given",
    },
    "dagster._core.storage.tags": {"BACKFILL_ID_TAG": "backfills of the UI go last"},
}
_LAUNCHER = {
    "dagster._core.launcher": {
        "CheckRunHealthResult(status, msg)": "tells by the run's lock whether its worker lives",
        "LaunchRunContext": "what a launcher is given",
        "WorkerStatus.FAILED": "tells by the run's lock whether its worker lives",
    },
    "dagster_celery.launcher": {
        "CeleryRunLauncher(default_queue, broker, backend, config_source, inst_data)": "our broker",
        "CeleryRunLauncher._instance": "reports launches and ends of runs",
        "CeleryRunLauncher.check_run_worker_health(run)": "by the run's lock, not by results",
        "CeleryRunLauncher.get_run_worker_debug_info(run, include_container_logs)": "no results",
        "CeleryRunLauncher.launch_run(context)": "our task",
        "CeleryRunLauncher.terminate(run_id)": "a cancelled run ends as canceled",
    },
}
_LOGGING = {
    "dagster._core.definitions.instigation_logger": {
        "create_console_logger(name, level)": "logs of ticks in our format",
    },
    "dagster._core.execution.context_creation_job": {
        "default_system_loggers(instance)": "logs of runs in our format",
    },
}
_CODE_SERVER = {
    "dagster._cli.api": {
        "configure_loggers": "our logs stay as they are",
        "grpc_command": "is the process",
    },
}
_DAEMON = {
    "dagster._core.workspace.context": {"IWorkspaceProcessContext": "what a daemon is given"},
    "dagster._daemon.cli": {"run_command": "is the process"},
    "dagster._daemon.controller": {
        "configure_loggers": "our logs stay as they are",
        "create_daemon_of_type(daemon_type, instance)": "makes our daemon of the run queue",
    },
    "dagster._daemon.daemon": {
        "DaemonIterator": "what a daemon's loop yields",
        "DagsterDaemon": "what a daemon is",
        "SpanMarker.END_SPAN": "then the run queue was looked at",
    },
    "dagster._daemon.run_coordinator.queued_run_coordinator_daemon": {
        "QueuedRunCoordinatorDaemon(interval_seconds)": "base of our daemon of the run queue",
        "QueuedRunCoordinatorDaemon._dequeue_runs_iter(workspace_process_context, run_coordinator,"
        " runs_to_dequeue, concurrency_config, fixed_iteration_time)": "launches runs",
        "QueuedRunCoordinatorDaemon.core_loop(workspace_process_context, shutdown_event)": "waits",
        "QueuedRunCoordinatorDaemon.run_iteration"
        "(workspace_process_context, fixed_iteration_time)": "chooses runs by turns of their users",
    },
    "dagster._core.remote_representation.external": {"RemoteSensor.name": "which sensor is due"},
    "dagster._core.scheduler.instigation": {
        "InstigatorState.instigator_data": "which sensor is due",
        "SensorInstigatorData.cursor": "which sensor is due",
        "SensorInstigatorData.last_tick_start_timestamp": "which sensor is due",
        "SensorInstigatorData.last_tick_success_timestamp": "which sensor is due",
    },
    "dagster._grpc.server_watcher": {"WATCH_INTERVAL": "looks for a new code server less often"},
    "dagster._daemon.sensor": {
        "MIN_INTERVAL_LOOP_TIME": "looks at sensors every second",
        "get_elapsed(state)": "which sensor is due",
        "is_under_min_interval(state, remote_sensor)": "no ticks that would find nothing",
    },
}
_WEBSERVER = {
    "dagster._core.workspace.context": {
        "WorkspaceProcessContext(instance, workspace_load_target, version)": "what the UI shows",
    },
    "dagster._core.workspace.load_target": {"WorkspaceFileTarget": "what the UI shows"},
    "dagster._grpc.server_watcher": {"WATCH_INTERVAL": "looks for a new code server less often"},
    "dagster_webserver.app": {
        "create_app_from_workspace_process_context"
        "(workspace_process_context, live_data_poll_rate)": "the application behind our guards",
    },
}
_WORKER = {
    "dagster._cli.api": {
        "_execute_run_command_body"
        "(run_id, instance, write_stream_fn, set_exit_code_on_failure)": "executes a run",
    },
    "dagster_celery.make_app": {"make_app(app_args)": "our settings"},
}
CONTRACT: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "storage": _STORAGE,
    "submission": _SUBMISSION,
    "launcher": _LAUNCHER,
    "logging": _LOGGING,
    "code server": _CODE_SERVER,
    "daemon": _DAEMON,
    "webserver": _WEBSERVER,
    "worker": _WORKER,
}
_OPEN_ENDED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check(*groups: str) -> None:
    """Raises UnknownDagster."""
    for group in groups:
        for module, names in CONTRACT[group].items():
            for name, reason in names.items():
                for problem in _problems(module, name):
                    package, installed, supported = _versions(module)
                    raise UnknownDagster(
                        f"{package} {installed} is not supported: {module} {problem}, which is for:"
                        f" {reason}; install {supported}"
                    )


def _problems(module: str, name: str) -> Iterator[str]:
    path, has_parameters, parameters = name.rstrip(")").partition("(")
    try:
        found = attrgetter(path)(importlib.import_module(module))
    except ImportError:
        yield "cannot be imported"
        return
    except AttributeError:
        yield f"lacks {path}"
        return
    if has_parameters:
        expected = re.findall(r"\w+", parameters)
        actual = [
            parameter
            for parameter in inspect.signature(found).parameters.values()
            if parameter.name != "self" and parameter.kind not in _OPEN_ENDED
        ]
        needed = [p.name for p in actual if p.name in expected or p.default is p.empty]
        if needed != expected:
            yield f"has {path}({', '.join(p.name for p in actual)})"


def _versions(module: str) -> tuple[str, str, str]:
    """The package, its installed version, and our requirement."""
    package = module.partition(".")[0].replace("_", "-")
    ours = metadata.requires("lens-pipeline") or ()
    wanted = next(one for one in ours if re.match(rf"{package}[^\w-]", one))
    return package, metadata.version(package), wanted
