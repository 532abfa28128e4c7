"""Settings that stop a start with one line, and those that are read."""

import os
from pathlib import Path

import pytest

from lens_pipeline.settings import SettingsError, export_foreign, load

WRONG = {
    "an unknown variable": ({"LENS_BATCHSIZE": "3"}, "LENS_BATCHSIZE", "LENS_BATCH_SIZE"),
    "an unknown one like nothing": ({"LENS_QWERTZUIOP": "3"}, "LENS_QWERTZUIOP", "remove it"),
    "zero": ({"LENS_BATCH_SIZE": "0"}, "LENS_BATCH_SIZE", "greater than or equal to 1"),
    "too much": ({"LENS_PREVIEW_QUALITY": "101"}, "LENS_PREVIEW_QUALITY", "100"),
    "a negative time": ({"LENS_FETCH_TIMEOUT_SECONDS": "-1"}, "LENS_FETCH_TIMEOUT_SECONDS", "0"),
    "infinity": ({"LENS_FETCH_TIMEOUT_SECONDS": "inf"}, "LENS_FETCH_TIMEOUT_SECONDS", "3600"),
    "not a number": ({"LENS_FETCH_TIMEOUT_SECONDS": "nan"}, "LENS_FETCH_TIMEOUT_SECONDS", ""),
    "runs that go before their events": (
        {"LENS_RETAIN_RUNS_DAYS": "7"},
        "LENS_RETAIN_RUNS_DAYS",
        "LENS_RETAIN_EVENTS_DAYS=14",
    ),
    "no number": ({"LENS_THREADS": "two"}, "LENS_THREADS", "integer"),
    "no truth": ({"LENS_ENABLED": "maybe"}, "LENS_ENABLED", "bool"),
    "a port too high": ({"LENS_DAGSTER_PORT": "70000"}, "LENS_DAGSTER_PORT", "65535"),
    "an unknown format": ({"LENS_LOG_FORMAT": "xml"}, "LENS_LOG_FORMAT", "'json'"),
    "another database": (
        {"LENS_DATABASE_URL": "mysql://x/y"},
        "LENS_DATABASE_URL",
        "postgresql://",
    ),
    "a proxy and no token": (
        {"LENS_ALLOWED_HOSTS": "lens.example.com"},
        "LENS_ALLOWED_HOSTS",
        "set LENS_API_TOKEN",
    ),
    "no URL": ({"LENS_STORE_URL": "/data"}, "LENS_STORE_URL", "file://"),
    "an @ in the password": (
        {"LENS_DATABASE_URL": "postgresql://lens:open@sesame@h/lens"},
        "LENS_DATABASE_URL",
        "@ as %40",
    ),
    "a # in the password": (
        {"LENS_BROKER_URL": "redis://:open#sesame@h/0"},
        "LENS_BROKER_URL",
        "# as %23",
    ),
    "no host": ({"LENS_BROKER_URL": "redis://:sesame/0"}, "LENS_BROKER_URL", "no number"),
    "another broker": ({"LENS_BROKER_URL": "kafka://x"}, "LENS_BROKER_URL", "redis://"),
    "one database for two": (
        {"LENS_DATABASE_URL": "postgresql://h/a", "LENS_DAGSTER_URL": "postgresql://h/a"},
        "LENS_DAGSTER_URL",
        "database of its own",
    ),
    "an endpoint without a bucket": (
        {"LENS_S3_ENDPOINT": "https://h/s3"},
        "LENS_S3_ENDPOINT",
        "s3://",
    ),
    "webhooks without a secret": (
        {"LENS_WEBHOOK_URLS": "http://10.0.0.1/hooks"},
        "LENS_WEBHOOK_URLS",
        "LENS_WEBHOOK_SECRET",
    ),
    "a webhook to nowhere": (
        {"LENS_WEBHOOK_URLS": "https://h/a,ftp://sesame@h"},
        "LENS_WEBHOOK_URLS",
        "at place 2",
    ),
    "a secret that is short": (
        {"LENS_WEBHOOK_SECRET": "whsec_sesame"},
        "LENS_WEBHOOK_SECRET",
        "38 characters",
    ),
    "no address of Apprise": ({"LENS_NOTIFY_URLS": "sesame"}, "LENS_NOTIFY_URLS", "Apprise"),
    "results without a broker": (
        {"LENS_RESULT_URL": "redis://h/0"},
        "LENS_RESULT_URL",
        "LENS_BROKER_URL",
    ),
    "a pattern without an id": (
        {"LENS_ORIGINAL_KEYS": "{user_id}/image/*.png"},
        "LENS_ORIGINAL_KEYS",
        "{user_id}/image/{id}_*.png",
    ),
    "a pattern that begins with a slash": (
        {"LENS_ORIGINAL_KEYS": "/{user_id}/{id}.png"},
        "LENS_ORIGINAL_KEYS",
        "leave out a /",
    ),
    "a pattern that leads out of the store": (
        {"LENS_ORIGINAL_KEYS": "{id}.png,../{id}.png"},
        "LENS_ORIGINAL_KEYS",
        "..",
    ),
    "a pattern that lists all before an id": (
        {"LENS_ORIGINAL_KEYS": "{user_id}/*/{id}.png"},
        "LENS_ORIGINAL_KEYS",
        "* only after it",
    ),
    "a pattern in which p1 is p10": (
        {"LENS_ORIGINAL_KEYS": "{user_id}/{id}*.png"},
        "LENS_ORIGINAL_KEYS",
        "not beside it",
    ),
    "a pattern in which two users are one": (
        {"LENS_ORIGINAL_KEYS": "files/{user_id}_{id}.png"},
        "LENS_ORIGINAL_KEYS",
        "in a folder before it",
    ),
    "a pattern with an unknown field": (
        {"LENS_ORIGINAL_KEYS": "{project}/{id}.png"},
        "LENS_ORIGINAL_KEYS",
        "{user_id}",
    ),
    "a pattern of our own files": (
        {"LENS_ORIGINAL_KEYS": "{user_id}/originals/{id}_*.png"},
        "LENS_ORIGINAL_KEYS",
        "its own files",
    ),
    "a column that is none": (
        {"LENS_SOURCE_COLUMNS": "original_path,results->0"},
        "LENS_SOURCE_COLUMNS",
        "original_path,asset_url,results",
    ),
    "columns that lack the one which is written": (
        {"LENS_SOURCE_COLUMNS": "original_path,results"},
        "LENS_SOURCE_COLUMNS",
        "lacks asset_url",
    ),
    "a kind that is none": ({"LENS_TYPES": "audio=audio"}, "LENS_TYPES", "photo=photo|product"),
    "a type of two kinds": (
        {"LENS_TYPES": "photo=photo|clip,video=clip"},
        "LENS_TYPES",
        "once of each type",
    ),
    "no schedule": ({"LENS_BACKFILL_CRON": "hourly"}, "LENS_BACKFILL_CRON", "five fields"),
    "an impossible schedule": ({"LENS_BACKFILL_CRON": "99 * * * *"}, "LENS_BACKFILL_CRON", "99 *"),
    "a step of zero": ({"LENS_BACKFILL_CRON": "*/0 * * * *"}, "LENS_BACKFILL_CRON", "*/5"),
    "an address of others, open to all": ({"LENS_BIND": "0.0.0.0"}, "LENS_BIND", "LENS_API_TOKEN"),
    "the same in IPv6": ({"LENS_BIND": "::"}, "LENS_BIND", "LENS_API_TOKEN"),
    "one address of ours, open to all": ({"LENS_BIND": "10.0.0.7"}, "LENS_BIND", "LENS_API_TOKEN"),
    "a token that can be guessed": ({"LENS_API_TOKEN": "geheim"}, "LENS_API_TOKEN", "16"),
    "a proxy by name": ({"LENS_TRUSTED_PROXIES": "nginx"}, "LENS_TRUSTED_PROXIES", "10.0.0.0/8"),
    "everybody a proxy": ({"LENS_TRUSTED_PROXIES": "*"}, "LENS_TRUSTED_PROXIES", "10.0.0.0/8"),
    "a name to bind to": ({"LENS_BIND": "example.com"}, "LENS_BIND", "0.0.0.0"),
    "an old name that contradicts": (
        {"PREVIEWS_WORKER_CONCURRENCY": "2", "LENS_PREVIEW_CONCURRENCY": "3"},
        "PREVIEWS_WORKER_CONCURRENCY",
        "remove",
    ),
    "an old name with a wrong value": (
        {"PREVIEWS_WORKER_CONCURRENCY": "many"},
        "LENS_PREVIEW_CONCURRENCY",
        "integer",
    ),
}


@pytest.mark.parametrize(("environ", "variable", "fix"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_setting_is_one_line_that_names_it(
    environ: dict[str, str], variable: str, fix: str
) -> None:
    """A service that starts with a default where a typing error stands."""
    with pytest.raises(SettingsError) as raised:
        load(environ, dotenv=None)
    message = str(raised.value)
    assert variable in message
    assert fix in message
    assert "\n" not in message


def test_no_message_holds_a_password() -> None:
    """Credentials in the log of every failed start."""
    for environ in (
        {"LENS_DATABASE_URL": "mysql://u:geheim@h/d"},
        {
            "LENS_DATABASE_URL": "postgresql://u:geheim@h/d",
            "LENS_DAGSTER_URL": "postgresql://u:geheim@h/d",
        },
        {"LENS_BROKER_URL": "u:geheim@h/d"},
        {"LENS_API_TOKEN": "geheim"},
        {"LENS_API_TOKEN": "geheim-geheim-geheim", "LENS_BIND": "example.com"},
    ):
        with pytest.raises(SettingsError) as raised:
            load(environ, dotenv=None)
        assert "geheim" not in str(raised.value)


def test_old_names_are_understood_with_a_warning_each() -> None:
    """A site that moves over and silently runs with other settings."""
    settings, warnings = load(
        {
            "PREVIEWS_WORKER_ENABLED": "false",
            "PREVIEWS_WORKER_CONCURRENCY": "3",
            "PREVIEWS_WORKER_DEBUG": "1",
        },
        dotenv=None,
    )
    assert (settings.enabled, settings.preview_concurrency, settings.debug) == (False, 3, True)
    assert len(warnings) == 3
    assert any("LENS_PREVIEW_CONCURRENCY" in warning for warning in warnings)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """An override for one start that has no effect."""
    (tmp_path / ".env").write_text("LENS_BATCH_SIZE=7\nLENS_THREADS=3\nOTHER=1\n")
    settings, _ = load({"LENS_BATCH_SIZE": "9"}, dotenv=tmp_path / ".env")
    assert (settings.batch_size, settings.threads) == (9, 3)


def test_the_local_file_is_read_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets of a site's own `.env.local` that must be written down twice."""
    (tmp_path / ".env").write_text("LENS_BATCH_SIZE=7\nLENS_THREADS=3\nLENS_DEBUG=true\n")
    (tmp_path / ".env.local").write_text("LENS_THREADS=4\nLENS_DEBUG=\nAWS_REGION=eu-west-1\n")
    settings, _ = load({}, dotenv=tmp_path / ".env")
    assert (settings.batch_size, settings.threads, settings.debug) == (7, 4, False)
    monkeypatch.setenv("AWS_REGION", "")
    monkeypatch.delenv("AWS_REGION")
    export_foreign(tmp_path / ".env")
    assert os.environ["AWS_REGION"] == "eu-west-1"
    (tmp_path / ".env.local").write_bytes(b"LENS_PHOTOS=caf\xe9\n")
    with pytest.raises(SettingsError, match=r"\.env\.local cannot be read: "):
        load({}, dotenv=tmp_path / ".env")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("PREVIEWS_WORKER_POLL_INTERVAL_MS", "LENS_BACKFILL_CRON"),
        ("PREVIEWS_WORKER_BATCH_SIZE", "LENS_BATCH_SIZE"),
        ("PREVIEWS_WORKER_MAX_RETRIES", "LENS_MAX_ATTEMPTS"),
        ("PREVIEWS_WORKER_IMAGE_TIMEOUT_MS", "LENS_RENDER_TIMEOUT_SECONDS"),
        ("PREVIEWS_WORKER_PREVIEW_WIDTH", "LENS_PREVIEW_EDGE"),
        ("PREVIEWS_WORKER_BUCKET", "LENS_STORE_URL=s3://BUCKET"),
        ("PREVIEWS_WORKER_MOOD", "remove it"),
        ("NEXT_PUBLIC_SUPABASE_URL", "LENS_DATABASE_URL"),
        ("SUPABASE_SERVICE_ROLE_KEY", "LENS_STORE_URL"),
    ],
)
def test_what_an_old_name_becomes_is_said_in_one_line(name: str, answer: str) -> None:
    """A setting of the old workers that does nothing, without a word."""
    settings, (line,) = load({name: "geheim"}, dotenv=None)
    assert (name in line, answer in line) == (True, True)
    assert not {"\n", "geheim"} & {*line.split()}
    assert settings == load({}, dotenv=None)[0]


def test_a_site_that_has_set_what_is_needed_hears_nothing_of_supabase() -> None:
    """A warning at each command of names that its own pages need."""
    site = {"NEXT_PUBLIC_SUPABASE_URL": "https://x.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": "k"}
    own = {"LENS_DATABASE_URL": "postgresql://h/d", "LENS_STORE_URL": "s3://media"}
    assert load(site | own, dotenv=None)[1] == []


def test_an_empty_variable_is_an_unset_one() -> None:
    """A compose file that passes every variable on, set or not."""
    settings, _ = load({"LENS_DATABASE_URL": "", "LENS_BATCH_SIZE": ""}, dotenv=None)
    assert (settings.database_url, settings.batch_size) == (None, 20)


@pytest.mark.parametrize(
    "cron", ["*/5 * * * *", "0 4 * * 1-5", "0,30 */2 1-7 jan,JUL mon", "59 23 31 12 7"]
)
def test_usual_schedules_are_fine(cron: str) -> None:
    """A check of schedules that is stricter than the scheduler."""
    assert load({"LENS_BACKFILL_CRON": cron}, dotenv=None)[0].backfill_cron == cron


def test_hosts_are_a_list_by_commas() -> None:
    """An exemption that covers nothing because of a blank."""
    settings, _ = load({"LENS_FETCH_ALLOW_HOSTS": "a.example, 10.0.0.0/8 ,"}, dotenv=None)
    assert settings.fetch_allow_hosts == ("a.example", "10.0.0.0/8")
