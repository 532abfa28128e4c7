"""`lens add`: files, folders and addresses become generations."""

import uuid
from pathlib import Path

import pytest

from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.site import Site


def _rows(site: Site) -> dict[str, tuple[str, str, str]]:
    """User, kind and address, by the last part of the address."""
    found = site.sql("SELECT user_id, type, asset_url FROM generations")
    return {row.asset_url.rpartition("/")[2]: tuple(row) for row in found}


def test_several_files_and_a_folder_in_one_go(site: Site, tmp_path: Path) -> None:
    """A hundred commands for a hundred files; one bad file that keeps the rest out."""
    folder = tmp_path / "trip"
    (folder / "deeper").mkdir(parents=True)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "Лето.mp4").write_bytes(sources.mp4())
    (folder / "odd name").write_bytes(sources.png())
    (tmp_path / "one.JPG").write_bytes(sources.jpeg())
    url = "https://h.example/far.webm?a=b"

    added = site.lens("add", "one.JPG", "none.jpg", url, "trip", "--project", "p1")

    assert added.code == 1
    lines = dict(line.split("  ", 1) for line in added.out.splitlines())
    assert list(lines.values()) == ["one.JPG", "far.webm?a=b", "odd name", "Лето.mp4"]
    rows = _rows(site)
    assert {name: row[:2] for name, row in rows.items()} == {
        "one.jpg": ("me", "photo"),
        "far.webm?a=b": ("me", "video"),
        "odd name": ("me", "photo"),
        "Лето.mp4": ("me", "video"),
    }
    for name, bytes_ in (("one.jpg", sources.jpeg()), ("Лето.mp4", sources.mp4())):
        assert (site.store / rows[name][2]).read_bytes() == bytes_
    for said in ("none.jpg: there is no file", "passed over trip/deeper", "passed over trip/notes"):
        assert said in added.err
    # Photos are no shots.
    shots = site.sql("SELECT project_id, generation_id FROM project_assets")
    videos = {one for one, name in lines.items() if name in ("Лето.mp4", "far.webm?a=b")}
    assert {tuple(row) for row in shots} == {("p1", one) for one in videos}


def test_one_file_prints_its_id_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(sources.png())
    added = site.lens("add", "a.png", "--user", "u9")
    assert added.code == 0
    (row,) = site.sql("SELECT id, user_id FROM generations")
    assert (added.out, row.user_id) == (f"{row.id}\n", "u9")


def test_a_user_that_the_table_cannot_hold_is_told_once(site: Site, tmp_path: Path) -> None:
    site.sql("DROP INDEX generations_user_id_finished_at_id")
    site.sql("ALTER TABLE generations ALTER user_id TYPE uuid USING user_id::uuid")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(sources.png())
    refused = site.lens("add", "a.png", "b.png")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "user 'me' is no UUID" in refused.err
    assert "--user" in refused.err
    assert site.objects() == set()
    assert site.lens("add", "a.png", "--user", str(uuid.uuid4())).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["empty"], "there is no photo or video to add"),
        (["a.png", "--user", "a/b"], "user 'a/b' may only have"),
        (["a.png", "--project", ".."], "project '..' may only have"),
        (["https://h.example/x"], "use --type"),
    ],
)
def test_what_cannot_be_added_is_told(
    site: Site, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(sources.png())
    added = site.lens("add", *arguments)
    assert (added.code, added.out) == (1, "")
    assert said in added.err
    assert site.sql("SELECT FROM generations") == []
