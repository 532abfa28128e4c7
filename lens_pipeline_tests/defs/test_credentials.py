"""Content credentials, from the row to the API."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import c2pa
import httpx2 as httpx
import psutil
import pytest

from lens_pipeline import definitions
from lens_pipeline.defs.assets import provenance
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.media import credentials
from lens_pipeline.media.errors import Cancelled, MediaProcessDied, SandboxUnavailable
from lens_pipeline.media.models import Ingredient, Manifest
from lens_pipeline.media.sandbox.pool import CREDENTIALS, Sandbox
from lens_pipeline.settings import load
from lens_pipeline.storage.retries import FetchCancelled
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.certificates import Pair, issue
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served

pytestmark = pytest.mark.slow


@pytest.fixture
def certificate(tmp_path: Path) -> Pair:
    return issue(tmp_path / "pair")


@pytest.fixture
def sign(site: Site, environment: pytest.MonkeyPatch, certificate: Pair) -> None:
    environment.setenv("LENS_C2PA_CERT", str(certificate.cert))
    environment.setenv("LENS_C2PA_KEY", str(certificate.key))


@pytest.fixture
def signed_photo(
    site: Site,
    server: HostileServer,
    sandboxes: Callable[..., Sandbox],
    tmp_path_factory: pytest.TempPathFactory,
) -> bytes:
    """Row `p1`, as a generator that signs would make it."""
    signer = credentials.load_signer(*issue(tmp_path_factory.mktemp("generator")))
    manifest = Manifest("cat.jpg", "image/jpeg", "1", (), (), "trainedAlgorithmicMedia")
    photo = sandboxes(load()[0], CREDENTIALS).signed(manifest, sources.jpeg(640, 480), signer)
    server.put("/p1.jpg", photo)
    site.add("p1", server.url("/p1.jpg", host="localhost"))
    return photo


def _facts(site: Site, asset: str, key: str) -> dict[str, Any]:
    return {name: value.value for name, value in site.metadata(asset, key).items()}


def _told(file: Path) -> dict[str, Any]:
    with c2pa.Reader(file) as reader:
        return json.loads(reader.json())


def test_credentials_of_originals_are_told_and_nothing_is_signed_without_a_pair(
    site: Site, signed_photo: bytes, photo: Callable[[str], str]
) -> None:
    """What a generator says of its file, lost on the way to people."""
    site.add("plain", photo("plain"))
    assert site.once()["failed"] == 0
    preview, original = (_facts(site, a, "p1") for a in ("preview", "photo_generation"))
    assert preview["c2pa"] == original["c2pa"]
    assert preview["c2pa"]["state"] == "valid"
    assert (site.store / original["path"]).read_bytes() == signed_photo
    assert "c2pa" not in _facts(site, "preview", "plain")
    assert not credentials.has_credentials(site.store / preview["path"])
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, definitions.job)))
    with served(app) as url, httpx.Client(base_url=url) as web:
        told = web.get("/api/generations/p1").json()["c2pa"]
        assert "c2pa" not in web.get("/api/generations/plain").json()
    assert told == preview["c2pa"]
    assert told["source_types"] == ["trainedAlgorithmicMedia"]
    assert (told["signer"], told["issuer"], told["title"]) == ("Tests", "Example", "cat.jpg")


def test_pictures_are_signed_as_derived_and_nothing_becomes_outdated(
    site: Site,
    signed_photo: bytes,
    photo: Callable[[str], str],
    environment: pytest.MonkeyPatch,
    certificate: Pair,
) -> None:
    """Files of which nobody can tell where they come from; a library that is made anew."""
    assert site.once()["failed"] == 0
    environment.setenv("LENS_C2PA_CERT", str(certificate.cert))
    environment.setenv("LENS_C2PA_KEY", str(certificate.key))
    environment.setenv("LENS_PREVIEW_SIZES", "64")
    before = _facts(site, "preview", "p1")
    site.add("plain", photo("plain"))
    site.lens("backfill", "--kind", "photo", "--force", "--json")
    for key, manifests in (("p1", 2), ("plain", 1)):
        preview = _facts(site, "preview", key)
        for made in (preview, *preview["sizes"].values()):
            file = site.store / made["path"]
            told = _told(file)
            assert told["validation_state"] == "Valid"
            assert len(told["manifests"]) == manifests
            (parent,) = told["manifests"][told["active_manifest"]]["ingredients"]
            assert (parent["title"], parent["relationship"]) == (key, "parentOf")
            assert file.stat().st_size == made["bytes"]
    assert _facts(site, "preview", "p1")["thumbhash"] == before["thumbhash"]
    assert _facts(site, "preview", "p1")["bytes"] - before["bytes"] < 32 * 1024


def test_films_are_signed_with_their_shots(site: Site, sign: None) -> None:
    """A film whose shots are not named, or whose proof the signature undoes."""
    project = Project(site)
    project.master("m1", [project.shot("a"), project.shot("b", audio_seconds=0.5), "a"])
    assert site.once()["failed"] == 0
    project.rendition("s1", "m1")
    assert site.once()["failed"] == 0
    master = site.store / _facts(site, "master_video", "m1")["path"]
    told = _told(master)
    active = told["manifests"][told["active_manifest"]]
    assert told["validation_state"] == "Valid"
    assert sorted(one["title"] for one in active["ingredients"]) == ["a", "b"]
    for asset, key in (("master_poster", "m1"), ("scaled_video", "s1"), ("poster", "a")):
        told = _told(site.store / _facts(site, asset, key)["path"])
        (parent,) = told["manifests"][told["active_manifest"]]["ingredients"]
        assert (told["validation_state"], parent["relationship"]) == ("Valid", "parentOf")


def test_a_credentials_process_that_ends_fails_no_preview_and_no_file_for_good(
    site: Site,
    signed_photo: bytes,
    environment: pytest.MonkeyPatch,
    certificate: Pair,
    tmp_path: Path,
) -> None:
    """A preview lost for want of what is optional; dead letters, as the machine had no memory."""
    file = tmp_path / "a.jpg"
    file.write_bytes(signed_photo)
    source = Ingredient("a", "image/jpeg", "", None, file)
    for error in (MediaProcessDied("killed"), SandboxUnavailable("no process"), Cancelled()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sandbox, "credentials", Mock(side_effect=error))
            if isinstance(error, Cancelled):
                with pytest.raises(FetchCancelled):
                    provenance.Provenance(load()[0]).facts(source)
            else:
                told = provenance.Provenance(load()[0]).facts(source)["c2pa"].value
                assert told == {"state": "unreadable", "problems": [str(error)]}

    environment.setenv("LENS_C2PA_CERT", str(certificate.cert))
    environment.setenv("LENS_C2PA_KEY", str(certificate.key))
    signer = credentials.load_signer(*certificate)
    for failure in ("EncoderDied", "SigningUnavailable"):
        with pytest.MonkeyPatch.context() as patch:
            if failure == "EncoderDied":
                killer = replace(signer, sign=_kill_credentials_process)
                patch.setattr(provenance, "load_signer", lambda *_, killer=killer: killer)
            else:
                patch.setattr(Sandbox, "signed", Mock(side_effect=SandboxUnavailable("no process")))
            assert site.once()["failed"] == 1
            failed = site.status("p1")
        assert (failed["state"], failed["error_class"]) == ("failed", failure)
        assert failed["attempts"] == 0


def _kill_credentials_process(_: bytes) -> bytes:
    for child in psutil.Process().children():
        if child.cmdline()[3:5] == ["lens_pipeline.media.sandbox.worker", CREDENTIALS]:
            child.kill()
    return b""


def test_what_cannot_be_signed_waits(
    site: Site, sign: None, photo: Callable[[str], str], certificate: Pair
) -> None:
    """Files without credentials, for good; dead letters for a certificate that was renewed."""
    site.add("p1", photo("p1"))
    key = certificate.key.read_bytes()
    certificate.key.write_bytes(issue(certificate.key.parent / "other").key.read_bytes())
    assert site.once()["failed"] == 1
    failed = site.status("p1")
    assert (failed["state"], failed["error_class"]) == ("failed", "SigningUnavailable")
    assert "is not the key" in failed["error"]
    assert not [name for name in site.objects() if "p1" in name]
    doctor = site.lens("doctor", "--json")
    assert "is not the key" in str(doctor.json)
    certificate.key.write_bytes(key)
    assert "signs what is made: valid" in str(site.lens("doctor", "--json").json)
    site.lens("retry", "p1")
    assert site.once()["ready"] == 1
